"""Objects, their boxes and scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_claps.masks import box_iou, drop_low_scores, extract_objects, match_boxes
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


box = st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(51, 100)] * 2)


@given(box, box)
def test_iou_is_symmetric_and_bounded(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert 0 <= box_iou(a, b) <= 1 and abs(box_iou(a, b) - box_iou(b, a)) < 1e-12
    assert abs(box_iou(a, a) - 1) < 1e-9
