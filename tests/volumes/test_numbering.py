"""Objects linked across slices: against 3-D truth, with gaps, motion and flickers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from napari_claps.errors import InputError
from napari_claps.synthetic import synthetic_oct
from napari_claps.types import Box, BoxSource
from napari_claps.volumes.doubts import doubtful_places
from napari_claps.volumes.linking import MM_RULE, PIXEL_RULE, LinkRule, axial_shift, rule_for
from napari_claps.volumes.numbering import link_slices
from tests.linked_slices import (
    FLUID,
    SPACING,
    linked_volume,
    links_of,
    pocket,
    results_of,
    same_objects,
    with_flicker,
)

ANY_PIXEL = replace(PIXEL_RULE, reach=0, min_overlap=1, max_gap=0, damp=False)
CONNECTED = np.stack([np.pad([[1]], 1), np.ones((3, 3)), np.pad([[1]], 1)])
"""Within a slice objects touch at corners, across slices they overlap."""
SLOWLY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def eye():
    return synthetic_oct(shape=(12, 192, 200), spacing=(0.24, 0.006, 0.02), seed=3)


@pytest.mark.parametrize(("known", "rule"), [(True, None), (False, replace(PIXEL_RULE, max_gap=0))])
def test_slices_of_a_synthetic_eye_become_its_true_objects(eye, known, rule):
    """Anisotropic voxels, and an eye that moves between the B-scans."""
    with link_slices(results_of(eye.truth), eye.image.spacing if known else None, rule=rule) as linked:
        found = {label: np.stack([r.masks[label] for r in linked]) for label in eye.truth}
        assert len(linked) == 12
        counts = linked.links.n_objects
    for label, truth in eye.truth.items():
        assert same_objects(found[label], truth), label
        assert counts[label] == len(np.unique(truth)) - 1
        assert found[label].dtype == np.uint16
    assert counts[FLUID] > 3


@SLOWLY
@given(arrays(bool, (5, 6, 7)))
def test_overlap_alone_is_3d_connectivity(mask):
    assert same_objects(linked_volume(mask, None, ANY_PIXEL), ndimage.label(mask, CONNECTED)[0])


@SLOWLY
@given(arrays(bool, (4, 7, 9)), st.randoms(use_true_random=False), st.sampled_from([None, SPACING]))
def test_numbers_in_the_slices_do_not_matter(mask, random, spacing):
    planes, shuffled = [], []
    for plane in mask:
        numbers, n = ndimage.label(plane, np.ones((3, 3)))
        new = np.array([0, *random.sample(range(1, 60), n)])
        planes.append(numbers)
        shuffled.append(new[numbers])
    first = linked_volume(np.stack(planes), spacing, relabel=False)
    second = linked_volume(np.stack(shuffled), spacing, relabel=False)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first > 0, mask)


def test_rows_of_a_nanometre_do_not_break_the_search_for_motion():
    """In such a file the eye may move by more rows than there are."""
    np.testing.assert_array_equal(linked_volume(pocket(), (0.12, 1e-6, 0.011)), pocket())


def test_linking_twice_changes_nothing():
    once = linked_volume(pocket() | pocket(centre=(8, 10), radius=4))
    np.testing.assert_array_equal(linked_volume(once, relabel=False), once)


def test_merging_pockets_are_one_object():
    volume = pocket(z=(0, 4), centre=(20, 15)) | pocket(z=(0, 4), centre=(20, 45))
    assert len(np.unique(linked_volume(volume))) - 1 == 2
    volume[4, 18:23, 10:50] = 1
    assert len(np.unique(linked_volume(volume))) - 1 == 1


def test_numbers_count_in_reading_order_from_the_first_slice():
    volume = pocket(z=(2, 5), centre=(8, 10)) | pocket(z=(0, 3), centre=(30, 45)) | pocket(z=(2, 4), centre=(8, 45))
    found = linked_volume(volume)
    assert [found[2, 30, 45], found[2, 8, 10], found[2, 8, 45]] == [1, 2, 3]


@pytest.mark.parametrize(("missing", "rule", "count"), [
    (1, None, 1), (2, None, 2), (1, replace(MM_RULE, max_gap=0), 2), (2, replace(MM_RULE, max_gap=2), 2),
    (2, replace(MM_RULE, max_gap=2, gap_distance=0.4), 1), (1, replace(MM_RULE, gap_distance=0.2), 2),
])
def test_gaps_are_bridged_as_far_as_the_rule_says(missing, rule, count):
    volume = pocket()
    volume[3:3 + missing] = 0
    found = linked_volume(volume, rule=rule)
    assert len(np.unique(found)) - 1 == count
    assert not found[3:3 + missing].any(), "a bridge invents no mask"


def test_a_gap_is_no_bridge_beside_what_goes_on():
    """What lies behind an object that did not end is another object."""
    volume = pocket(z=(0, 2), centre=(20, 20), radius=6)
    volume[1:4] |= pocket(centre=(20, 28), radius=6)[1:4]  # moves on to the right ...
    volume[1, :, :22] = 0
    volume[2] = pocket(centre=(20, 31), radius=4)[2]
    volume[3] = pocket(centre=(20, 36), radius=4)[3]
    volume[3] |= pocket(centre=(20, 17), radius=3)[3]  # ... and another begins where it was
    found = linked_volume(volume)
    assert found[0, 20, 20] == found[3, 20, 36]
    assert found[3, 20, 17] not in (0, found[3, 20, 36])


def test_neighbours_are_the_slices_looked_at():
    volume = pocket(shape=(16, 40, 60), z=(0, 16))
    assert len(np.unique(linked_volume(volume, slices=range(0, 16, 4)))) - 1 == 1, "0.48 mm apart"
    assert len(np.unique(linked_volume(volume, slices=range(0, 16, 5)))) - 1 == 4, "0.6 mm apart: nobody knows"
    assert len(np.unique(linked_volume(volume, None, slices=range(0, 16, 2)))) - 1 == 1
    assert len(np.unique(linked_volume(volume, None, slices=range(0, 16, 3)))) - 1 == 6


def test_overlap_is_measured_in_mm():
    """The same pixels are enough at one scale, and too little at another."""
    volume = pocket(shape=(2, 40, 60), z=(0, 1), centre=(20, 20), radius=6)
    volume[1, 14:27, 26:40] = 1  # shares one pixel of the rim
    assert len(np.unique(linked_volume(volume, (0.1, 0.02, 0.02)))) - 1 == 1
    assert len(np.unique(linked_volume(volume, (0.1, 0.004, 0.004)))) - 1 == 2


def test_axial_motion_is_taken_out_and_lateral_is_not():
    thin = np.zeros((2, 40, 60), bool)
    thin[0, 20:23, 10:30] = thin[1, 24:27, 10:30] = True
    masks = [{"drusen": plane.astype(np.uint16)} for plane in thin]
    assert axial_shift(*masks, 5) == 4
    assert axial_shift(masks[1], masks[0], 5) == -4
    assert axial_shift(*masks, 0) == axial_shift(masks[0], masks[0], 5) == axial_shift({}, masks[0], 5) == 0
    assert len(np.unique(linked_volume(thin))) - 1 == 1
    assert len(np.unique(linked_volume(thin, (0.12, 0.015, 0.011)))) - 1 == 2, "60 um is more than the eye moves"
    assert len(np.unique(linked_volume(thin.swapaxes(1, 2)))) - 1 == 2


def test_boxes_follow_their_objects():
    volume = pocket(z=(0, 6), centre=(30, 45)) | pocket(z=(2, 6), centre=(8, 10))
    loose = Box(0, 0, 5, 5, FLUID, 0.4, 3, 0, BoxSource.DETECTOR)
    results = [replace(r, boxes=(*r.boxes, loose)) if r.index == 3 else r for r in results_of({FLUID: volume})]
    assert [b.instance for b in results[3].boxes] == [1, 2, 0], "in reading order within the slice"
    with link_slices(results, SPACING) as linked:
        out = list(linked)
    assert [b.instance for b in out[3].boxes] == [2, 1, 0]
    for result in out:
        for box in result.boxes:
            if box.instance:
                assert result.masks[FLUID][int(box.y0 + box.y1) // 2, int(box.x0 + box.x1) // 2] == box.instance
    assert (out[3].seconds, out[3].presence, out[3].prompts) == (
        results[3].seconds, results[3].presence, results[3].prompts)


@pytest.mark.parametrize("label", ["retina", "vessel"])
def test_layers_and_trees_stay_one_object(label):
    volume = np.zeros((6, 30, 40), np.uint16)
    volume[[0, 1, 5], 10:20] = 1
    volume[1, 12:14, :] = 0
    with link_slices(results_of({label: volume}, score=0.1, presence=0.0), SPACING) as linked:
        for result in linked:
            np.testing.assert_array_equal(result.masks[label], volume[result.index])
        assert linked.links.n_objects == {label: 1}


def flicker_score(volume, *, score, presence, rule=None, spacing=SPACING, slices=None):
    """Score of the object at (4, 8, 8) after linking, None if it is gone; box and mask must agree."""
    with link_slices(results_of({FLUID: volume}, score=score, presence=presence, slices=slices), spacing,
                     rule=rule) as linked:
        result = next(r for r in linked if r.index == 4)
    number = result.masks[FLUID][8, 8]
    scores = [b.score for b in result.boxes if b.y0 < 20 and b.x0 < 20]
    assert len(scores) == (number > 0)
    assert result.masks[FLUID][20, 30] > 0, "the pocket stays"
    return scores[0] if scores else None


def test_flicker_without_evidence_is_removed():
    assert flicker_score(with_flicker(), score=0.6, presence=0.1) is None
    assert flicker_score(with_flicker(), score=0.6, presence=0.1, spacing=None) is None


def test_flicker_with_evidence_is_damped_and_kept():
    assert flicker_score(with_flicker(), score=0.6, presence=0.8) == pytest.approx((0.6 + 0.4 + 0.4) / 3)
    assert flicker_score(with_flicker(), score=0.6, presence=1.0) < 0.6, "damping never raises a score"
    one_side = flicker_score(with_flicker(), score=0.6, presence=0.4, slices=range(5))
    assert one_side == pytest.approx((0.6 + 0.2) / 2), "the last slice has one neighbour"
    assert flicker_score(with_flicker(), score=0.3, presence=1.0) == 0.3, "a weak one that its neighbours support"


@pytest.mark.parametrize("change", [
    {"score": 0.8}, {"volume": with_flicker(side=16)}, {"rule": replace(MM_RULE, damp=False)}, {"slices": [4]},
    {"spacing": (0.7, 0.004, 0.011)}, {"presence": float("nan")},
    {"volume": with_flicker() | pocket(z=(5, 6), centre=(8, 8), radius=3)},
    {"volume": with_flicker() | pocket(z=(6, 7), centre=(8, 8), radius=3)},
], ids=["strong", "large", "off", "no neighbour", "far neighbours", "no evidence either way", "two slices", "bridged"])
def test_what_is_strong_large_or_not_alone_is_kept(change):
    options = {"volume": with_flicker(), "score": 0.6, "presence": 0.0} | change
    assert flicker_score(options.pop("volume"), **options) == options["score"]


def test_without_a_box_nothing_is_judged():
    results = [replace(r, boxes=()) for r in results_of({FLUID: with_flicker()}, presence=0.0)]
    assert links_of(results).n_objects == {FLUID: 2}


def test_relabel_a_napari_array_in_place():
    volume = pocket(z=(0, 6), centre=(30, 45)) | pocket(z=(2, 6), centre=(8, 10))
    results = list(results_of({FLUID: volume}))
    data = np.stack([r.masks[FLUID] for r in results])
    data[3, 0, 0] = 57  # painted by the user while the run went on
    links_of(results).relabel_volume(FLUID, data)
    assert data[3, 0, 0] == 57
    data[3, 0, 0] = 0
    np.testing.assert_array_equal(data, linked_volume(volume))
    assert links_of(results).number(FLUID, 3, 57) == 57


def test_empty_volume_and_plane_image():
    empty = np.zeros((3, 20, 20), bool)
    assert not linked_volume(empty).any()
    assert links_of(results_of({FLUID: empty})).n_objects == {FLUID: 0}
    assert doubtful_places(links_of(results_of({FLUID: empty}))) == []
    assert links_of([]).n_objects == {}
    plane = pocket(shape=(1, 40, 60), z=(0, 1))
    links = links_of(results_of({FLUID: plane}, score=0.5, presence=0.0), spacing=SPACING[1:])
    assert links.n_objects == {FLUID: 1}
    assert doubtful_places(links) == []


def test_order_of_slices_is_checked():
    with pytest.raises(InputError, match=r"Slice 2 comes after slice 4: .* ascending"):
        link_slices(results_of({FLUID: pocket()}, slices=[4, 2]), SPACING)
    with pytest.raises(InputError, match="cannot be negative"):
        LinkRule(max_distance=-1, reach=0, min_overlap=0, small=0, gap_distance=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        replace(MM_RULE, strong=1.5)
    assert (rule_for(None), rule_for(SPACING)) == (PIXEL_RULE, MM_RULE)


def test_the_generator_is_closed_when_linking_fails():
    closed = []

    def results():
        try:
            yield from results_of({FLUID: pocket()}, slices=[4, 2, 5])
        finally:
            closed.append(True)

    with pytest.raises(InputError):
        link_slices(results(), SPACING)
    assert closed == [True]
