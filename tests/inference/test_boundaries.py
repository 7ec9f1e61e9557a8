"""The constants of inference, seen from both sides: a little less gives one answer, a little more the other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit
from skimage.draw import ellipse

from napari_claps.errors import InputError
from napari_claps.inference.artery_vein import vote_along_vessels
from napari_claps.inference.ensemble import shifted
from napari_claps.inference.objects import drop_low_scores, extract_objects, keep_single, match_boxes
from napari_claps.inference.preprocess import display_limits, to_unit_rgb
from napari_claps.inference.region import check_region
from napari_claps.inference.scales import scaled_shape, working_side
from napari_claps.inference.slices import parse_slices
from napari_claps.inference.tile_prediction import box_window, mask_window
from napari_claps.inference.tiles import Tile, plan_tiles, tile_weight
from napari_claps.methods.base import ViewBox
from napari_claps.types import BoxSource, Modality, RetinalImage
from napari_claps.words.vocabulary import Kind

# Scales


@pytest.mark.parametrize(("modality", "kind", "low", "high"), [
    (Modality.CFP, Kind.TREE, 1024, 1792), (Modality.CFP, Kind.LESION, 1536, 2048),
    (Modality.UWF, Kind.TREE, 2560, 2560), (Modality.UWF, Kind.LESION, 1536, 2048),
    (Modality.SLO, Kind.TREE, 1152, 1152), (Modality.FAF, Kind.TREE, 512, 512), (Modality.FFA, Kind.LESION, 1024, 1024),
    (Modality.OCT, Kind.OBJECT, 640, 768), (Modality.OCT, Kind.BAND, 640, 768),
    *((modality, Kind.OBJECT, 512, 512) for modality in Modality if modality is not Modality.OCT),
])  # fmt: skip
def test_images_are_enlarged_or_reduced_to_the_limits_and_keep_their_pixels_between(
        modality: Modality, kind: Kind, low: int, high: int) -> None:
    for own, expected in ((100, low), (low - 1, low), (low, low), ((low + high) // 2, (low + high) // 2), (high, high),
                          (high + 1, high), (5000, high)):
        assert [working_side(modality, kind, shape) for shape in ((own, own // 2), (own // 2, own))] == [expected] * 2


def test_vessels_of_angiograms_are_seen_twice_as_large_between_the_limits() -> None:
    sides = [working_side(Modality.OCTA, Kind.TREE, (n, n)) for n in (304, 319, 320, 321, 399, 400, 401, 1000)]
    assert sides == [640, 640, 640, 642, 798, 800, 800, 800]


def test_a_scaled_side_is_never_below_32_pixels() -> None:
    assert scaled_shape((100, 1000), 320) == (32, 320)
    assert scaled_shape((90, 1000), 320) == (32, 320) and scaled_shape((110, 1000), 320) == (35, 320)
    assert scaled_shape((1000, 90), 320) == (320, 32) and scaled_shape((1000, 110), 320) == (320, 35)


# Tiles


def test_up_to_1024_by_640_pixels_are_one_view() -> None:
    assert len(plan_tiles((640, 1024))) == len(plan_tiles((1024, 640))) == 1
    assert len(plan_tiles((642, 1024))) > 1, "too many pixels"
    assert len(plan_tiles((600, 1024))) == 1 and len(plan_tiles((600, 1026))) > 1, "too long"


def test_sides_of_a_single_view_are_rounded_up_to_multiples_of_32() -> None:
    assert plan_tiles((64, 65)) == [Tile(0, 0, 64, 96)] and plan_tiles((33, 32)) == [Tile(0, 0, 64, 32)]


def test_tiles_have_512_pixels_and_at_least_64_in_common() -> None:
    tiles = plan_tiles((960, 962))
    assert {(t.height, t.width) for t in tiles} == {(512, 512)}
    assert sorted({t.y for t in tiles}) == [0, 448], "two tiles with 64 pixels in common are just enough"
    assert sorted({t.x for t in tiles}) == [0, 224, 450], "two would have 62 pixels in common"
    assert {(t.y, t.height) for t in plan_tiles((400, 2000))} == {(0, 416)}, "a short side is one tile"
    assert len(plan_tiles((400, 2000))) == 5 and len(plan_tiles((512, 2000))) == 5, "and no tile comes twice"


@pytest.mark.parametrize("length", [1100, 1411, 1792, 2048, 2560])
def test_neighbouring_tiles_share_64_pixels_or_more(length: int) -> None:
    starts = sorted({t.x for t in plan_tiles((1024, length))})
    shared = [a + 512 - b for a, b in pairwise(starts)]
    assert min(shared) >= 62 and max(shared) < 288, "rounding to even pixels may take two"
    assert len(starts) == int(np.ceil((length - 64) / 448))


def test_a_tile_counts_less_within_64_pixels_of_its_border() -> None:
    weight = tile_weight(Tile(0, 0, 512, 512))
    np.testing.assert_allclose(weight[256, [0, 31, 62, 63, 64, 256]], [1 / 64, 0.5, 63 / 64, 1, 1, 1])
    np.testing.assert_allclose(weight[[-1, -32, -63, -64], 256], [1 / 64, 0.5, 63 / 64, 1])
    assert weight[0, 0] == pytest.approx(1 / 64**2)


# Grey values


def test_the_darkest_and_brightest_thousandth_are_cut_off() -> None:
    assert display_limits(np.arange(10_001)) == pytest.approx((10, 9990))
    plane = np.full(10_000, 500, np.uint16)
    for few, many, value, end in ((5, 20, 60_000, 1), (5, 20, 3, 0)):
        for count, expected in ((few, 500), (many, value)):
            hot = plane.copy()
            hot[:count] = value
            assert display_limits(hot)[end] == expected, f"{count} of 10000 pixels at {value}"


def test_grey_values_are_stretched_between_the_limits() -> None:
    plane = np.array([[50, 100, 150], [200, 300, 400]], np.uint16)
    unit = to_unit_rgb(plane, limits=(100, 300))
    np.testing.assert_allclose(unit[..., 0], [[0, 0, 0.25], [0.5, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(to_unit_rgb(plane.astype(np.float64) - 200, limits=(-100, 100)), unit, atol=1e-6)


def test_values_that_are_no_numbers_are_found_also_where_limits_are_given() -> None:
    plane = np.ones((10, 10), np.float32)
    plane[3, 4] = np.nan
    with pytest.raises(InputError, match="1 of 100"):
        to_unit_rgb(plane, limits=(0, 1))


def test_limits_are_taken_from_every_value_up_to_two_million() -> None:
    data = np.zeros(2_000_000, np.uint16)
    data[1::2] = 100
    assert display_limits(data[:-1]) == (0, 100)
    assert display_limits(data) == (0, 0), "every second one"


# Objects


@pytest.mark.parametrize("min_area", [0, 2])
def test_pixels_that_touch_at_a_corner_are_one_object(min_area: float) -> None:
    corner, apart = np.zeros((12, 12), np.float32), np.zeros((12, 12), np.float32)
    corner[2:4, 2:4] = corner[4:6, 4:6] = 0.9
    apart[2:4, 2:4] = apart[5:7, 4:6] = 0.9
    corner[10, 10] = apart[10, 10] = 0.9 if min_area else 0  # a speck, so that the numbers are given anew
    assert extract_objects(corner, threshold=0.5, min_area=min_area, whole=False).max() == 1
    assert extract_objects(apart, threshold=0.5, min_area=min_area, whole=False).max() == 2


def test_threshold_and_smallest_area_are_included() -> None:
    probability = np.zeros((8, 8), np.float32)
    probability[1, 1:5], probability[4, 1:4], probability[6, 1:5] = 0.5, 0.9, 0.49
    found = extract_objects(probability, threshold=0.5, min_area=4, whole=False)
    assert found[1, 1:5].tolist() == [1] * 4 and np.count_nonzero(found) == 4
    assert extract_objects(probability, threshold=0.5, min_area=3, whole=False).max() == 2
    assert extract_objects(probability, threshold=0.49, min_area=4, whole=False).max() == 2
    single = np.zeros((4, 4), np.float32)
    single[1, 1] = 0.9
    assert extract_objects(single, threshold=0.5, min_area=1, whole=False).any()
    assert not extract_objects(single, threshold=0.5, min_area=1.5, whole=False).any()


def test_specks_of_a_tree_are_removed_and_the_rest_is_one() -> None:
    probability = np.zeros((9, 9), np.float32)
    probability[1, 1:6], probability[4, 1:6], probability[7, 7] = 0.9, 0.9, 0.9
    found = extract_objects(probability, threshold=0.5, min_area=2, whole=True)
    assert found.max() == 1 and np.count_nonzero(found) == 10


def test_numbers_end_with_those_of_16_bits() -> None:
    probability = np.zeros((514, 514), np.float32)
    probability[::2, ::2] = 1  # 257 x 257 objects
    found = extract_objects(probability, threshold=0.5, min_area=0, whole=False)
    assert found.max() == 65535 and found[-2, -2] == 65535 and found[0, 2] == 2


@pytest.mark.parametrize(("width", "source"), [(33, BoxSource.DETECTOR), (34, BoxSource.MASK)])
def test_a_detected_box_belongs_to_an_object_from_an_overlap_of_three_tenths(width: int, source: BoxSource) -> None:
    """A box of 10 x 33 pixels around a square of 10 x 10 has an IoU of 0.303, one of 10 x 34 of 0.294."""
    probability = np.zeros((20, 50), np.float32)
    probability[2:12, 3:13] = 0.8
    objects = (probability > 0).astype(np.uint16)
    (box,) = match_boxes(objects, probability, [(2, 3, 12, 3 + width, 0.6)], name="drusen", slice_index=0)
    assert box.source is source
    assert (box.x1, round(box.score, 4)) == ((36, 0.7) if source is BoxSource.DETECTOR else (13, 0.8))


@pytest.mark.parametrize(("height", "width"), [(3, 10), (10, 3)])
def test_an_overlap_of_exactly_three_tenths_is_enough(height: int, width: int) -> None:
    objects = np.zeros((20, 20), np.uint16)
    objects[2:2 + height, 3:3 + width] = 1
    (box,) = match_boxes(objects, objects.astype(np.float32), [(2, 3, 12, 13, 0.6)], name="drusen", slice_index=0)
    assert box.source is BoxSource.DETECTOR


@pytest.mark.parametrize(("height", "width"), [(1, 10), (10, 1)])
def test_objects_of_a_single_row_have_detected_boxes_too(height: int, width: int) -> None:
    objects = np.zeros((20, 20), np.uint16)
    objects[2:2 + height, 3:3 + width] = 1
    (box,) = match_boxes(objects, objects.astype(np.float32), [(2, 3, 2 + height, 3 + width, 0.6)], name="drusen",
                         slice_index=0)
    assert box.source is BoxSource.DETECTOR and box.score == pytest.approx(0.8)


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_one_object_with_the_most_evidence_is_kept(best: int) -> None:
    objects, probability = np.zeros((30, 90), np.uint16), np.zeros((30, 90), np.float32)
    for number in (1, 2, 3):
        window = (slice(5, 25), slice(30 * number - 25, 30 * number - 5))
        objects[window], probability[window] = number, 0.9 if number == best else 0.8
    assert np.flatnonzero(keep_single(objects, probability).any(0)).mean() == pytest.approx(30 * best - 15.5)


@pytest.mark.parametrize("detected", [(2, 13, 12, 23, 0.6), (12, 3, 20, 13, 0.6), (15, 30, 20, 40, 0.6)])
def test_a_box_beside_an_object_is_not_its_own(detected: tuple[float, ...]) -> None:
    """It touches it, or lies elsewhere."""
    objects = np.zeros((20, 50), np.uint16)
    objects[2:12, 3:13] = 1
    (box,) = match_boxes(objects, objects.astype(np.float32), [detected], name="drusen", slice_index=0)
    assert (box.source, box.y0, box.x0, box.y1, box.x1) == (BoxSource.MASK, 2, 3, 12, 13)


def test_the_lowest_score_is_kept() -> None:
    objects = np.array([[1, 0, 2]], np.uint16)
    boxes = match_boxes(objects, np.array([[0.5, 0, 0.25]], np.float32), [], name="drusen", slice_index=0)
    assert drop_low_scores(objects, boxes, 0.25)[0].tolist() == [[1, 0, 2]]
    assert drop_low_scores(objects, boxes, 0.26)[0].tolist() == [[1, 0, 0]]
    assert drop_low_scores(objects, boxes, 0.51)[0].tolist() == [[0, 0, 0]]


def bitten(depth: int, top: int = 20) -> np.ndarray:
    """A disc of radius 40 without a slot of 20 pixels that reaches `depth` pixels into it."""
    mask = np.zeros((130, 130), bool)
    mask[ellipse(top + 40, 60, 40.5, 40.5)] = True
    mask[top:top + depth, 50:70] = False
    return mask


def test_what_overlaps_with_its_ellipse_by_85_per_cent_becomes_it() -> None:
    """Slots of 22 and of 26 pixels leave overlaps of 0.861 and 0.838."""
    for depth, smoothed in ((22, True), (26, False)):
        mask = bitten(depth)
        found = keep_single(mask.astype(np.uint16), mask.astype(np.float32)) > 0
        assert (found != mask).any() == smoothed, depth


@pytest.mark.parametrize("turns", range(4))
def test_an_object_at_the_border_keeps_its_outline(turns: int) -> None:
    for rim, smoothed in ((0, False), (1, True)):
        mask = np.rot90(bitten(10)[:101 + rim], turns)
        found = keep_single(mask.astype(np.uint16), mask.astype(np.float32)) > 0
        assert (found != mask).any() == smoothed, rim


# Arteries and veins


def vessels(*pieces: tuple[tuple[slice | int, slice | int], float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of artery and vein on (40, 100) pixels; 0.02 where no piece lies."""
    maps = np.full((2, 40, 100), 0.02, np.float32)
    for place, *values in pieces:
        for plane, value in zip(maps, values, strict=True):
            plane[place] = value
    return maps[0], maps[1]


@pytest.mark.parametrize(("highest", "voted"), [(0.31, True), (0.3, True), (0.29, False)])
def test_pixels_belong_to_the_tree_from_three_tenths_on(highest: float, voted: bool) -> None:
    before = vessels(((20, slice(5, 95)), highest, 0.05))
    after = vote_along_vessels(*before)
    assert (after[1][20, 50] != before[1][20, 50]) == voted


@pytest.mark.parametrize(("gap", "is_artery"), [(7, True), (8, False)])
def test_a_piece_goes_on_across_eight_pixels(gap: int, is_artery: bool) -> None:
    """The ends of the two pieces are `gap + 1` pixels apart; the second is a little more vein than artery."""
    artery, vein = vote_along_vessels(*vessels(((20, slice(5, 45)), 0.9, 0.1), ((20, slice(45 + gap, 95)), 0.48, 0.5)))
    assert artery[20, 20] > vein[20, 20] and (artery[20, 80] > vein[20, 80]) == is_artery


def test_pixels_farther_than_eight_from_the_middle_of_a_vessel_stay() -> None:
    before = vessels(((slice(8, 33), slice(0, 100)), 0.6, 0.4))
    changed = (vote_along_vessels(*before)[0] != before[0])[:, 50]
    assert changed[12:29].all() and not changed[:12].any() and not changed[29:].any(), "the middle is row 20"


@pytest.mark.parametrize(("degrees", "is_artery"), [(52, True), (68, False)])
def test_a_piece_goes_on_in_a_bend_of_up_to_sixty_degrees(degrees: float, is_artery: bool) -> None:
    before = vessels(((30, slice(5, 45)), 0.9, 0.1))
    steps = np.arange(0, 30, 0.25)
    rows, columns = (np.round(v).astype(int) for v in (30 - 4 - steps * np.sin(np.radians(degrees)),
                                                       47 + steps * np.cos(np.radians(degrees))))
    inside = rows > 1
    before[0][rows[inside], columns[inside]], before[1][rows[inside], columns[inside]] = 0.48, 0.5
    artery, vein = vote_along_vessels(*before)
    middle = rows[inside][40], columns[inside][40]
    assert (artery[middle] > vein[middle]) == is_artery


@pytest.mark.parametrize(("ratio", "is_artery"), [(2.5, False), (3.5, True)])
def test_in_a_bend_of_45_degrees_a_piece_must_be_three_times_as_sure_to_go_on(ratio: float, is_artery: bool) -> None:
    """Two pieces of equal size share with the squared cosine, a half: the other wins from 1.5 / 0.5 on."""
    before = vessels(((35, slice(18, 45)), float(expit(0.2 * ratio)), 0.5))
    steps = np.arange(27)
    before[0][33 - steps, 47 + steps], before[1][33 - steps, 47 + steps] = 0.5, float(expit(0.2))
    artery, vein = vote_along_vessels(*before)
    assert artery[35, 30] > vein[35, 30] and (artery[20, 60] > vein[20, 60]) == is_artery


def test_a_whole_piece_is_four_times_as_sure_as_its_pixels() -> None:
    artery, vein = vote_along_vessels(*vessels(((20, slice(5, 95)), 0.6, 0.4)))
    odds = 4 * (np.log(0.6 / 0.4) - np.log(0.4 / 0.6))
    assert artery[20, 50] == pytest.approx(0.6 / (1 + np.exp(-odds)), rel=1e-4)
    assert vein[20, 50] == pytest.approx(0.6 / (1 + np.exp(odds)), rel=1e-3)


@pytest.mark.parametrize(("others", "is_artery"), [(68, True), (70, False)])
def test_a_pixel_is_no_surer_than_999_in_a_thousand(others: int, is_artery: bool) -> None:
    """One pixel that is an artery for certain outweighs 68 that are a vein with 0.55 rather than 0.5, and not 70."""
    before = vessels(((20, slice(5, 6 + others)), 0.5, 0.55), ((20, 30), 1.0, 0.0))
    artery, vein = vote_along_vessels(*before)
    assert (artery[20, 50] > vein[20, 50]) == is_artery


# Boxes


@pytest.mark.parametrize(("side", "deviation"), [(50, 5), (190, 19), (210, 20), (400, 20)])
def test_box_edges_move_by_a_tenth_of_the_side_and_at_most_twenty_pixels(side: float, deviation: float) -> None:
    box = ViewBox((500.0, 500.0, 500.0 + side, 500.0 + side), 0, 0.5)
    moved = np.array([shifted(box, np.random.default_rng(seed), (2000, 2000)).corners for seed in range(3000)])
    np.testing.assert_allclose(moved.std(0), deviation, rtol=0.06)


def test_the_mask_of_a_box_may_stick_out_by_a_tenth_and_that_of_points_by_the_whole() -> None:
    """In pixels of the mask head, which are two of the view."""
    corners = (400.0, 600.0, 600.0, 1000.0)
    assert box_window(corners) == mask_window(ViewBox(corners, 0, 0.5)) == (slice(280, 520), slice(190, 310))
    assert mask_window(ViewBox(corners, 0, 0.5, points_alone=True)) == (slice(100, 700), slice(100, 400))
    assert box_window((0.0, 2.0, 8.0, 11.0)) == (slice(0, 6), slice(0, 5)), "never above or left of the view"


# What is asked for


def test_a_region_has_at_least_eight_pixels_a_side_and_may_touch_the_border() -> None:
    image = RetinalImage(np.zeros((40, 64), np.uint8))
    for good in ((0, 0, 8, 8), (32, 56, 40, 64), (0, 0, 40, 64)):
        check_region(good, image)
    for bad in ((0, 0, 7, 8), (0, 0, 8, 7), (-1, 0, 20, 20), (0, 0, 41, 64), (0, 0, 40, 65), (9, 0, 9, 20),
                (20, 0, 27, 40), (0, 20, 40, 27)):
        with pytest.raises(InputError, match="at least 8 x 8"):
            check_region(bad, image)


def test_a_step_of_slices_is_at_least_one() -> None:
    assert parse_slices("2:9:1") == slice(2, 9, 1) and parse_slices("-1") == slice(-1, None)
    for bad in ("2:9:0", "2:9:-1", "1:2:3:4", ""):
        with pytest.raises(InputError, match="STEP at least 1"):
            parse_slices(bad)
