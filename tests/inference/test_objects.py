"""Objects, their boxes and scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import ellipse

from napari_claps.inference.objects import box_iou, drop_low_scores, extract_objects, keep_single, match_boxes
from napari_claps.types import BoxSource


def two_squares() -> np.ndarray:
    probability = np.zeros((40, 60), np.float32)
    probability[5:15, 5:15] = 0.9
    probability[20:30, 40:55] = 0.6
    probability[35, 3] = 0.8
    return probability


def test_objects_are_numbered_and_specks_removed() -> None:
    objects = extract_objects(two_squares(), threshold=0.5, min_area=4, whole=False)
    assert objects.dtype == np.uint16 and set(np.unique(objects)) == {0, 1, 2}
    assert (objects == 1).sum() == 100 and (objects == 2).sum() == 150


def test_a_tree_is_one_object() -> None:
    assert extract_objects(two_squares(), threshold=0.5, min_area=0, whole=True).max() == 1


def test_objects_take_the_detected_box_or_their_own() -> None:
    probability = two_squares()
    objects = extract_objects(probability, threshold=0.5, min_area=4, whole=False)
    first, second = match_boxes(objects, probability, [(4, 4, 16, 16, 0.7)], name="drusen", slice_index=3)
    assert (first.source, first.y0, first.x1, first.slice_index) == (BoxSource.DETECTOR, 4, 16, 3)
    assert first.score == np.float32(0.8) or abs(first.score - 0.8) < 1e-6
    assert (second.source, second.y0, second.x0, second.y1, second.x1) == (BoxSource.MASK, 20, 40, 30, 55)
    assert second.instance == 2


def test_low_scores_are_dropped_with_their_pixels() -> None:
    probability = two_squares()
    objects = extract_objects(probability, threshold=0.5, min_area=4, whole=False)
    boxes = match_boxes(objects, probability, [], name="drusen", slice_index=0)
    kept_objects, kept = drop_low_scores(objects, boxes, 0.7)
    assert [b.instance for b in kept] == [1] and set(np.unique(kept_objects)) == {0, 1}


def test_nothing_is_found_in_nothing() -> None:
    empty = np.zeros((10, 10), np.float32)
    objects = extract_objects(empty, threshold=0.5, min_area=4, whole=False)
    assert not objects.any() and match_boxes(objects, empty, [(0, 0, 5, 5, 0.9)], name="x", slice_index=0) == ()


def ellipse_mask(centre: tuple[float, float], radii: tuple[float, float], rotation: float) -> np.ndarray:
    mask = np.zeros((120, 160), bool)
    mask[ellipse(*centre, *radii, shape=mask.shape, rotation=rotation)] = True
    return mask


@given(st.floats(40, 80), st.floats(50, 110), st.floats(15, 30), st.floats(15, 30), st.floats(-1.5, 1.5))
def test_the_ellipse_of_an_ellipse_is_itself(y: float, x: float, a: float, b: float, rotation: float) -> None:
    mask = ellipse_mask((y, x), (a, b), rotation)
    single = keep_single(mask.astype(np.uint16), mask.astype(np.float32))
    assert single.dtype == np.uint16 and np.count_nonzero((single > 0) ^ mask) <= 0.05 * mask.sum()


def test_of_two_discs_the_one_with_more_evidence_stays_without_holes_and_rags() -> None:
    disc, speck = ellipse_mask((60, 60), (40, 36), 0.0), ellipse_mask((60, 130), (8, 8), 0.0)
    y, x = np.mgrid[:120, :160] - np.array([60, 60])[:, None, None]
    found = np.hypot(y / 40, x / 36) < 1 + 0.08 * np.sin(9 * np.arctan2(y, x))  # ragged by vessels
    found[58:62, 58:62] = False  # a hole
    probability = np.where(found, 0.8, np.where(speck, 1.0, 0.1)).astype(np.float32)
    objects = extract_objects(probability, threshold=0.5, min_area=4, whole=False)
    assert objects.max() == 2
    single = keep_single(objects, probability) > 0
    assert not (single & speck).any() and single[60, 60]
    assert np.count_nonzero(single ^ disc) < 0.3 * np.count_nonzero(found ^ disc)


def test_what_is_not_round_or_cut_by_the_border_keeps_its_outline() -> None:
    crossed = np.zeros((100, 100), np.uint16)
    crossed[45:55, 10:90] = crossed[10:90, 45:55] = 1
    cut = ellipse_mask((0, 60), (25, 25), 0.0).astype(np.uint16)
    for objects in (crossed, cut, np.zeros((9, 9), np.uint16)):
        np.testing.assert_array_equal(keep_single(objects, objects.astype(np.float32)), objects)


box = st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(51, 100)] * 2)


@given(box, box)
def test_iou_is_symmetric_and_bounded(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert 0 <= box_iou(a, b) <= 1 and abs(box_iou(a, b) - box_iou(b, a)) < 1e-12
    assert abs(box_iou(a, a) - 1) < 1e-9
