"""The constants of volumes, seen from both sides: a little less gives one answer, a little more the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_claps.errors import InputError
from napari_claps.types import Modality, ModalityGuess, Prompt, SliceResult
from napari_claps.volumes.doubts import Reason, doubtful_places
from napari_claps.volumes.enface import project, thickness_map
from napari_claps.volumes.linking import PIXEL_RULE, rule_for
from napari_claps.volumes.numbering import link_slices
from tests.linked_slices import FLUID, linked_volume, links_of, pocket, results_of

MM = (0.12, 0.01, 0.01)
"""A pixel of a slice is 0.0001 mm2."""


def rectangles(*sizes: tuple[int, int], shape: tuple[int, int] = (60, 120), at: tuple[int, int] = (5, 5)) -> np.ndarray:
    """A volume with a rectangle (height, width) in each slice, all with the same corner; (0, 0) is an empty slice."""
    volume = np.zeros((len(sizes), *shape), np.uint16)
    for plane, (height, width) in zip(volume, sizes, strict=True):
        plane[at[0]:at[0] + height, at[1]:at[1] + width] = 1
    return volume


def n_objects(volume: np.ndarray, spacing: tuple[float, ...] | None, **more) -> int:
    return len(np.unique(linked_volume(volume, spacing, **more))) - 1


def doubts_of(volume: np.ndarray, spacing: tuple[float, ...] | None = None, **more) -> list:
    return doubtful_places(links_of(results_of({FLUID: volume}, **more), spacing))


# What is linked


@pytest.mark.parametrize(("distance", "count"), [(0.5, 1), (0.51, 3)])
def test_slices_up_to_half_a_millimetre_apart_are_neighbours(distance: float, count: int) -> None:
    assert n_objects(rectangles(*[(20, 20)] * 3), (distance, 0.01, 0.01)) == count


@pytest.mark.parametrize(("step", "count"), [(2, 1), (3, 4)])
def test_without_a_spacing_every_second_slice_is_a_neighbour(step: int, count: int) -> None:
    assert n_objects(rectangles(*[(20, 20)] * 10), None, slices=range(0, 10, step)) == count


@pytest.mark.parametrize(("spacing", "reach"), [((0.12, 0.0039, 0.01), 5), ((0.12, 0.0019, 0.01), 10), (None, 5)])
def test_the_eye_moves_by_up_to_20_micrometres_or_5_rows(spacing: tuple[float, ...] | None, reach: int) -> None:
    for shift, count in ((reach, 1), (reach + 1, 2)):
        volume = np.zeros((2, 60, 60), np.uint16)
        volume[0, 20, 10:40] = volume[1, 20 + shift, 10:40] = 1
        assert n_objects(volume, spacing) == count, shift


@pytest.mark.parametrize(("spacing", "least"), [((0.12, 0.0102, 0.01), 2), ((0.12, 0.0098, 0.01), 3), (None, 4)])
def test_objects_are_one_from_an_overlap_of_200_square_micrometres_or_4_pixels(
        spacing: tuple[float, ...] | None, least: int) -> None:
    for common, count in ((least - 1, 2), (least, 1)):
        volume = np.zeros((2, 60, 60), np.uint16)
        volume[0, 20:30, 10:20] = 1
        volume[1, 20:30, 20:30] = 1
        volume[1, 22:22 + common, 19] = 1
        assert n_objects(volume, spacing) == count, common


@pytest.mark.parametrize(("common", "count"), [(1, 2), (2, 1)])
def test_half_of_a_small_object_is_enough(common: int, count: int) -> None:
    """Of three pixels two, where large objects have to share four."""
    volume = np.zeros((2, 60, 60), np.uint16)
    volume[0, 20:30, 10:20] = 1
    volume[1, 25, 20 - common:23 - common] = 1
    assert n_objects(volume, None) == count


@pytest.mark.parametrize(("distance", "count"), [(0.15, 1), (0.151, 2)])
def test_gaps_of_up_to_three_tenths_of_a_millimetre_are_bridged(distance: float, count: int) -> None:
    assert n_objects(rectangles((20, 20), (0, 0), (20, 20)), (distance, 0.01, 0.01)) == count


@pytest.mark.parametrize(("slices", "count"), [((0, 1, 2), 1), ((0, 1, 3), 2)])
def test_without_a_spacing_a_gap_of_two_slices_is_bridged(slices: tuple[int, ...], count: int) -> None:
    volume = rectangles((20, 20), (0, 0), (20, 20), (20, 20))
    assert n_objects(volume, None, slices=slices) == count


@pytest.mark.parametrize(("missing", "count"), [(1, 1), (2, 2)])
def test_an_object_may_be_missing_in_one_slice(missing: int, count: int) -> None:
    volume = rectangles((20, 20), *[(0, 0)] * missing, (20, 20))
    assert n_objects(volume, (0.05, 0.01, 0.01)) == count


@pytest.mark.parametrize(("common", "count"), [(4, 2), (5, 1)])
def test_across_a_gap_a_quarter_of_the_smaller_object_must_overlap(common: int, count: int) -> None:
    volume = rectangles((10, 30), (0, 0), (0, 0))
    volume[2, 5:15, 35 - common:55 - common] = 1  # 20 columns wide
    assert n_objects(volume, MM) == count


def test_each_slice_comes_once_and_shares_may_be_nothing_or_all() -> None:
    with pytest.raises(InputError, match="Slice 2 comes after slice 2"):
        linked_volume(rectangles(*[(20, 20)] * 3), MM, slices=(2, 2))
    assert replace(PIXEL_RULE, gap_share=0, strong=1, keep=1).strong == 1
    for wrong in (-0.01, 1.01):
        with pytest.raises(InputError, match="between 0 and 1"):
            replace(PIXEL_RULE, gap_share=wrong)


# What is doubted


def flicker(height: int, width: int) -> np.ndarray:
    """A pocket through all slices, and a rectangle beside it in slice 4 only."""
    volume = pocket(shape=(8, 60, 120), z=(0, 8), centre=(40, 90))
    volume[4, 5:5 + height, 5:5 + width] = 1
    return volume


def is_kept(volume: np.ndarray, spacing: tuple[float, ...] | None, score: float, presence: float) -> bool:
    return bool(linked_volume(volume, spacing, score=score, presence=presence)[4, 5, 5])


@pytest.mark.parametrize(("spacing", "smaller", "larger"), [
    (MM, (9, 11), (10, 11)), ((0.12, 0.02, 0.01), (5, 9), (5, 11)), (None, (10, 19), (10, 20)),
])
def test_flickers_are_smaller_than_a_hundredth_of_a_square_millimetre_or_200_pixels(
        spacing: tuple[float, ...] | None, smaller: tuple[int, int], larger: tuple[int, int]) -> None:
    assert not is_kept(flicker(*smaller), spacing, score=0.6, presence=0.0)
    assert is_kept(flicker(*larger), spacing, score=0.6, presence=0.0)


def test_an_object_is_sure_from_a_score_of_three_quarters() -> None:
    assert [is_kept(flicker(5, 5), MM, score, presence=0.0) for score in (0.74, 0.75)] == [False, True]


def test_a_flicker_stays_from_a_damped_score_of_35_hundredths() -> None:
    """0.6 with half of 0.44 or 0.46 from both sides is 0.347 or 0.353."""
    assert [is_kept(flicker(5, 5), MM, 0.6, presence) for presence in (0.44, 0.46)] == [False, True]


@pytest.mark.parametrize(("distance", "kept"), [(0.5, False), (0.51, True)])
def test_slices_up_to_half_a_millimetre_apart_bear_witness(distance: float, kept: bool) -> None:
    assert is_kept(flicker(5, 5), (distance, 0.01, 0.01), score=0.6, presence=0.0) == kept


@pytest.mark.parametrize("sure", [(0,), (2,), (3,), (0, 2)])
def test_the_slices_before_and_after_a_flicker_bear_witness_and_no_others(sure: tuple[int, ...]) -> None:
    """One of both that is sure of the target is just enough: (0.6 + 0.5 + 0) / 3 is 0.367."""
    volume = rectangles((0, 0), (5, 5), (0, 0), (0, 0))
    links = links_of(results_of({FLUID: volume}, score=0.6, presence=lambda k: float(k in sure)), MM)
    assert links.n_objects == {FLUID: int(bool({0, 2} & set(sure)))}


@pytest.mark.parametrize(("presence", "kept"), [(0.0, False), (1.0, True)])
def test_what_was_removed_leaves_the_sure_pixels_too(presence: float, kept: bool) -> None:
    volume = flicker(5, 5)
    results = [replace(r, inner={FLUID: r.masks[FLUID] > 0})
               for r in results_of({FLUID: volume}, score=0.6, presence=presence)]
    with link_slices(results, MM) as linked:
        inner = list(linked)[4].inner[FLUID]
    assert inner[40, 90] and inner[5, 5] == kept


def test_a_removed_flicker_is_no_object() -> None:
    for presence, count in ((0.0, 1), (1.0, 2)):
        links = links_of(results_of({FLUID: flicker(5, 5)}, score=0.6, presence=presence), MM)
        assert links.n_objects == {FLUID: count}, presence


def test_the_next_free_number_that_somebody_paints_stays() -> None:
    links = links_of(results_of({FLUID: rectangles((20, 20), (20, 20))}), MM)
    for painted in ([0, 1, 2], [0, 1, 2, 3]):
        assert links.relabel(FLUID, 0, np.array([painted])).tolist() == [painted]
    assert [links.number(FLUID, 0, number) for number in (0, 1, 2, 3)] == [0, 1, 2, 3]


def test_what_the_users_threshold_drops_does_not_come_back() -> None:
    assert [rule_for(MM, score_threshold=t).keep for t in (None, 0.3, 0.4)] == [0.35, 0.35, 0.4]


# What is listed


@pytest.mark.parametrize(("width", "listed"), [(58, False), (60, False), (62, True)])
def test_an_area_jumps_if_it_becomes_more_than_three_times_as_large(width: int, listed: bool) -> None:
    doubts = doubts_of(rectangles((20, 20), (20, 20), (20, width), (20, 20), (20, 20)))
    assert [(d.reason, d.slice_index) for d in doubts] == ([(Reason.AREA_JUMP, 2)] if listed else [])


@pytest.mark.parametrize(("width", "listed"), [(24, False), (25, False), (26, True)])
def test_an_area_jumps_if_it_grows_by_more_than_the_smallest_object_that_counts(width: int, listed: bool) -> None:
    """From 50 pixels to 240, 250 and 260: the ratio is always large, and 200 pixels are the smallest object."""
    doubts = doubts_of(rectangles((10, 5), (10, 5), (10, width), (10, 5), (10, 5)))
    assert [(d.reason, d.slice_index) for d in doubts] == ([(Reason.AREA_JUMP, 2)] if listed else [])


def test_an_area_may_jump_at_the_ends_where_an_object_grows_and_shrinks() -> None:
    assert doubts_of(rectangles((20, 10), (20, 50), (20, 50), (20, 10))) == []
    (doubt,) = doubts_of(rectangles((20, 50), (20, 10), (20, 10), (20, 10)))
    assert (doubt.reason, doubt.slice_index) == (Reason.AREA_JUMP, 1), "it begins with its largest"
    (doubt,) = doubts_of(rectangles((20, 10), (20, 10), (20, 10), (20, 50)))
    assert (doubt.reason, doubt.slice_index) == (Reason.AREA_JUMP, 3), "it ends with its largest"


@pytest.mark.parametrize(("presence", "listed"), [(0.41, False), (0.39, True)])
def test_a_slice_disagrees_from_half_a_presence_on(presence: float, listed: bool) -> None:
    volume = rectangles(*[(20, 20)] * 5)
    doubts = doubts_of(volume, presence=lambda k: presence if k == 2 else 0.9)
    assert [(d.reason, d.slice_index) for d in doubts] == ([(Reason.DISAGREEMENT, 2)] if listed else [])


@pytest.mark.parametrize(("steps", "listed"), [
    ((0.9, 0.2, 0.3), False), ((0.9, 0.2, 0.8), True), ((0.1, 0.8, 0.2), True), ((0.1, 0.5, 1.0), False),
])
def test_both_neighbours_must_disagree_with_a_slice_in_the_same_sense(steps: tuple[float, ...], listed: bool) -> None:
    doubts = doubts_of(rectangles(*[(20, 20)] * 3), presence=steps.__getitem__)
    assert [(d.reason, d.slice_index) for d in doubts] == ([(Reason.DISAGREEMENT, 1)] if listed else [])


@pytest.mark.parametrize(("score", "listed"), [(0.96, False), (0.94, True)])
def test_places_from_a_severity_of_a_twentieth_on_are_listed(score: float, listed: bool) -> None:
    doubts = doubts_of(rectangles((0, 0), (20, 20), (0, 0)), score=score)
    assert [d.reason for d in doubts] == ([Reason.SINGLE_SLICE] if listed else [])


def test_what_was_removed_is_listed_however_small() -> None:
    (doubt,) = doubts_of(flicker(1, 2), score=0.6, presence=0.0)
    assert doubt.reason is Reason.REMOVED and doubt.severity == pytest.approx(0.6 * 2 / 200) and doubt.severity < 0.05


def test_a_place_is_listed_from_a_severity_of_exactly_a_twentieth() -> None:
    (doubt,) = doubts_of(rectangles((20, 20), (0, 0), (20, 20)), score=0.05, presence=1.0)
    assert (doubt.reason, doubt.severity) == (Reason.MISSING, 0.05)


def test_exactly_half_a_presence_is_no_disagreement() -> None:
    assert doubts_of(rectangles(*[(20, 20)] * 3), presence=(1.0, 0.5, 1.0).__getitem__) == []


def test_an_area_that_becomes_small_in_the_middle_jumps() -> None:
    (doubt,) = doubts_of(rectangles(*[(20, 50)] * 3, *[(20, 10)] * 3))
    assert (doubt.reason, doubt.slice_index) == (Reason.AREA_JUMP, 3)


@pytest.mark.parametrize(("slices", "at", "listed"), [
    ((0, 1, 2), 0, True), ((0, 1, 2), 2, True), ((0, 5, 6), 5, True), ((0, 5, 6), 0, False), ((0, 1, 6), 6, False),
])
def test_an_object_is_single_where_a_neighbour_does_not_show_it(slices: tuple[int, ...], at: int, listed: bool) -> None:
    """At the ends of a volume, and where slices are too far apart to be neighbours."""
    volume = np.zeros((7, 60, 120), np.uint16)
    volume[at, 5:25, 5:25] = 1
    doubts = doubts_of(volume, slices=slices, score=0.4)
    assert [(d.reason, d.slice_index) for d in doubts] == ([(Reason.SINGLE_SLICE, at)] if listed else [])


def test_a_gap_is_listed_where_its_own_slices_are_neighbours() -> None:
    volume = rectangles((0, 0), *[(0, 0)] * 4, (20, 20), (0, 0), (20, 20))
    (doubt,) = doubts_of(volume, slices=(0, 5, 6, 7))
    assert (doubt.reason, doubt.slice_index) == (Reason.MISSING, 6), "what lies far before it does not matter"
    far = rectangles((20, 20), (0, 0), *[(0, 0)] * 3, (20, 20), (20, 20))
    links = links_of(results_of({FLUID: far}, slices=(0, 1, 5, 6)), None, replace(PIXEL_RULE, gap_distance=9))
    assert links.n_objects == {FLUID: 1} and doubtful_places(links) == [], "slice 1 is too far from slice 5"


@pytest.mark.parametrize("presence", [{1: 0.1}, {5: 0.1}])
def test_slices_that_are_too_far_apart_do_not_disagree(presence: dict[int, float]) -> None:
    volume = rectangles(*[(20, 20)] * 7)
    assert doubts_of(volume, slices=(0, 1, 5, 6), presence=lambda k: presence.get(k, 0.9)) == []


def test_severity_without_a_score_is_a_half_and_without_a_smallest_object_that_of_the_score() -> None:
    volume = rectangles((0, 0), (20, 20), (0, 0))
    bare = [replace(result, boxes=()) for result in results_of({FLUID: volume})]
    assert [d.severity for d in doubtful_places(links_of(bare, None))] == [0.5]
    anything = replace(PIXEL_RULE, small=0)
    speck = links_of(results_of({FLUID: rectangles((0, 0), (2, 2), (0, 0))}, score=0.4), None, anything)
    assert [d.severity for d in doubtful_places(speck)] == [pytest.approx(0.6)]


def test_a_hole_between_two_objects_is_in_their_middle_and_a_removed_one_makes_none() -> None:
    volume = np.zeros((3, 60, 120), np.uint16)
    volume[0, 0:21, 0:21] = volume[2, 30:51, 80:101] = 1
    (doubt,) = doubts_of(volume, score=0.99)
    assert (doubt.reason, doubt.slice_index, doubt.severity) == (Reason.DISAGREEMENT, 1, 0.5)
    assert doubt.position == pytest.approx((1, (10 + 40) / 2, (10 + 90) / 2))
    flickering = np.zeros((5, 60, 120), np.uint16)
    flickering[1, 40:45, 100:105] = 1
    flickering[3:, 5:25, 5:25] = 1
    assert [d.reason for d in doubts_of(flickering, score=0.6, presence=0.0)] == [Reason.REMOVED]


def test_a_disagreement_is_where_the_target_lies_in_its_slice_or_in_the_middle() -> None:
    volume = np.zeros((3, 60, 120), np.uint16)
    for k in range(3):
        volume[k, 10:31, 20 + 5 * k**2:41 + 5 * k**2] = 1
    (doubt,) = doubts_of(volume, presence=(0.1, 0.9, 0.1).__getitem__)
    assert doubt.position == pytest.approx((1, 20, 35))
    (doubt,) = doubts_of(np.zeros((3, 60, 120), np.uint16), presence=(0.1, 0.9, 0.1).__getitem__)
    assert doubt.position == pytest.approx((1, 29.5, 59.5))


# En-face maps


def test_a_surface_is_the_first_row_below_it_and_the_last_above_the_next() -> None:
    volume = np.arange(10, dtype=np.float32)[None, :, None].repeat(2, 2)
    for top, bottom, mean, highest in (
            (2, 5, 3, 4), (2.5, 5, 3.5, 4), (2, 5.5, 3.5, 5), (None, 3, 1, 2), (7, None, 8, 9)):
        assert project(volume, top=top, bottom=bottom).data.tolist() == [[mean, mean]]
        assert project(volume, how="max", top=top, bottom=bottom).data.tolist() == [[highest, highest]]
    assert np.isnan(project(volume, top=5, bottom=5).data).all()


def test_thickness_is_in_micrometres() -> None:
    mask = np.zeros((1, 10, 2), np.uint16)
    mask[0, 2:5, 0] = 1
    assert thickness_map(mask, (0.24, 0.004, 0.0115)).data[0].tolist() == pytest.approx([12, 0])
    assert thickness_map(mask).data[0].tolist() == [3, 0]


def test_numbers_end_with_those_of_16_bits() -> None:
    plane = np.zeros((514, 514), np.uint16)
    plane[::2, ::2] = np.minimum(np.arange(1, 257**2 + 1), 65535).reshape(257, 257)  # as in a slice
    other = np.zeros_like(plane)
    other[1::2, 1::2] = 1  # in the next slice another object, with a number of its own
    guess, prompts = ModalityGuess(Modality.OCT, None, "file"), (Prompt(FLUID, FLUID, FLUID),)
    results = [SliceResult(k, guess, prompts, {FLUID: mask}, (), {FLUID: 1.0}, {})
               for k, mask in enumerate((plane, other))]
    with link_slices(results, None, rule=replace(PIXEL_RULE, reach=0, damp=False)) as linked:
        first, second = (result.masks[FLUID] for result in linked)
    assert first[0, 2] == 2 and first.max() == 65535
    assert set(np.unique(second)) == {0, 65535}, "the rest share the last number"
