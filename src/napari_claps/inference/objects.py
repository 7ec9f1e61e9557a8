"""From probabilities to objects: instance masks, and the box and score of each object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.draw import ellipse
from skimage.measure import label, regionprops

from napari_claps.types import Box, BoxSource

MATCH_IOU = 0.3
"""Overlap from which a detected box is the box of an object."""

SMALL_SCALE = np.ones((3, 3), bool)
"""Objects that touch at a corner are one (8-connected)."""

ELLIPSE_IOU = 0.85
"""Overlap with its ellipse from which an object counts as round. Masks that experts drew (40 discs, 22 cups of
Drishti-GS and IDRiD) have at least 0.92."""


def extract_objects(probability: np.ndarray, *, threshold: float, min_area: float, whole: bool) -> np.ndarray:
    """Number the objects of a target.

    Parameters
    ----------
    probability : ndarray
        (y, x) float.
    threshold : float
        Lowest probability of a pixel.
    min_area : float
        Smallest object in pixels.
    whole : bool
        Whether all pixels are one object (vessel trees, layers).

    Returns
    -------
    ndarray
        (y, x) uint16 numbers from 1 in reading order, 0 = background.
    """
    objects, count = ndimage.label(probability >= threshold, structure=SMALL_SCALE)
    if count and min_area > 1:
        sizes = np.bincount(objects.ravel())
        small = sizes < min_area
        small[0] = False
        if small.any():
            objects[small[objects]] = 0
            if not whole:
                objects = label(objects > 0, connectivity=2)
    if whole:
        objects = objects > 0
    return np.minimum(objects, np.iinfo(np.uint16).max).astype(np.uint16)


def keep_single(objects: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Keep the one object of a round target that an eye has once, and make it the ellipse of its moments.

    M-Net ends with such an ellipse too (Fu et al., TMI 2018, arXiv 1801.00926). An object that is not round, or that
    the border of the image cuts, keeps its outline.

    Parameters
    ----------
    objects : ndarray
        (y, x) instance numbers.
    probability : ndarray
        (y, x) float; the object with the highest sum is kept.

    Returns
    -------
    ndarray
        (y, x) uint16, 1 in the object, without holes.
    """
    count = int(objects.max())
    if not count:
        return objects
    sums = ndimage.sum_labels(probability, objects, range(1, count + 1))
    mask = ndimage.binary_fill_holes(objects == 1 + int(np.argmax(sums)))
    (region,) = regionprops(mask.astype(np.uint8))
    y0, x0, y1, x1 = region.bbox
    if y0 > 0 and x0 > 0 and y1 < mask.shape[0] and x1 < mask.shape[1]:
        smooth = np.zeros_like(mask)
        y, x = region.centroid
        smooth[ellipse(y, x, region.axis_major_length / 2, region.axis_minor_length / 2, shape=mask.shape,
                       rotation=region.orientation)] = True
        if np.count_nonzero(mask & smooth) >= ELLIPSE_IOU * np.count_nonzero(mask | smooth):
            mask = smooth
    return mask.astype(np.uint16)


def match_boxes(objects: np.ndarray, probability: np.ndarray,
                detected: Sequence[tuple[float, float, float, float, float]], *, name: str,
                slice_index: int) -> tuple[Box, ...]:
    """Give every object its box and score.

    An object takes the detected box that overlaps its own outline best (IoU of
    at least `MATCH_IOU`), and the mean of the box's score and its own mean
    probability; one that the detector missed gets the box around its mask.

    Parameters
    ----------
    objects : ndarray
        (y, x) instance numbers.
    probability : ndarray
        (y, x) float.
    detected : sequence of (y0, x0, y1, x1, score)
    name : str
        Label of the target.
    slice_index : int

    Returns
    -------
    tuple of Box
        One for each object, in order of its number.
    """
    boxes = []
    free = list(detected)
    for region in regionprops(objects, intensity_image=probability):
        y0, x0, y1, x1 = map(float, region.bbox)
        score = float(region.intensity_mean)
        source = BoxSource.MASK
        overlaps = [box_iou((y0, x0, y1, x1), d[:4]) for d in free]
        if overlaps and max(overlaps) >= MATCH_IOU:
            y0, x0, y1, x1, found = free.pop(int(np.argmax(overlaps)))
            score, source = (score + found) / 2, BoxSource.DETECTOR
        boxes.append(Box(y0, x0, y1, x1, label=name, score=min(score, 1.0), slice_index=slice_index,
                         instance=int(region.label), source=source))
    return tuple(boxes)


def drop_low_scores(objects: np.ndarray, boxes: Sequence[Box], lowest: float) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Remove objects whose score is below `lowest`; the others keep their numbers."""
    kept = tuple(b for b in boxes if b.score >= lowest)
    if len(kept) == len(boxes):
        return objects, kept
    alive = np.zeros(int(objects.max()) + 1, bool)
    alive[[b.instance for b in kept]] = True
    return np.where(alive[objects], objects, 0).astype(np.uint16), kept


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (y0, x0, y1, x1)."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    common = height * width
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
