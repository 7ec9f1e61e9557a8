"""Average precision of scored boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score

EVERY_NEIGHBOUR = np.ones((3, 3), dtype=bool)
"""8-connectivity: pixels that touch at a corner are one object."""


@dataclass(frozen=True, eq=False)
class BoxMatch:
    """Which predicted boxes of one slice hit a true box.

    Parameters
    ----------
    scores : ndarray
        (n,) float64, score of each predicted box.
    hits : ndarray
        (n,) bool.
    n_truth : int
        Number of true boxes.
    """

    scores: np.ndarray
    hits: np.ndarray
    n_truth: int


def object_boxes(mask: np.ndarray) -> np.ndarray:
    """Boxes around the objects of a mask.

    Parameters
    ----------
    mask : ndarray
        (y, x). Several different numbers are instance numbers; with one (True, 1
        or 255) the 8-connected pieces are the objects. 0 is background.

    Returns
    -------
    ndarray
        (n, 4) float64, ``(y0, x0, y1, x1)`` in pixels, end exclusive.
    """
    inside = mask[mask != 0]
    if inside.size and inside.min() != inside.max():
        labels = mask.astype(np.int64)
    else:
        labels, _ = ndimage.label(mask != 0, structure=EVERY_NEIGHBOUR)
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in filter(None, ndimage.find_objects(labels))]
    return np.array(boxes, dtype=float).reshape(-1, 4)


def match_boxes(predicted: np.ndarray, scores: np.ndarray, truth: np.ndarray, *, iou: float = 0.5) -> BoxMatch:
    """Assign predicted boxes to true ones, best score first, each true box once.

    Parameters
    ----------
    predicted, truth : ndarray
        (n, 4) and (m, 4), ``(y0, x0, y1, x1)`` in pixels, end exclusive.
    scores : ndarray
        (n,).
    iou : float
        Least overlap of a hit. As in COCO, a box takes the free true box that it overlaps most.
    """
    predicted, truth = np.reshape(predicted, (-1, 4)).astype(float), np.reshape(truth, (-1, 4)).astype(float)
    scores = np.asarray(scores, dtype=float).ravel()
    overlap = _pairwise_iou(predicted, truth)
    hits = np.zeros(len(predicted), dtype=bool)
    free = np.ones(len(truth), dtype=bool)
    for i in np.argsort(-scores, kind="stable") if len(truth) else ():
        best = int(np.argmax(np.where(free, overlap[i], -1)))
        if free[best] and overlap[i, best] >= iou:
            hits[i], free[best] = True, False
    return BoxMatch(scores, hits, len(truth))


def average_precision(matches: Iterable[BoxMatch]) -> float:
    """Average precision over all images, absent ones included; NaN without any true box.

    The sum over the recall steps of the precision there, without interpolation.
    """
    matches = list(matches)
    n_truth = sum(m.n_truth for m in matches)
    if not n_truth:
        return math.nan
    hits = np.concatenate([m.hits for m in matches])
    if not hits.any():
        return 0.0
    scores = np.concatenate([m.scores for m in matches])
    # scikit-learn knows the boxes that were proposed; those never proposed lower the recall.
    return float(average_precision_score(hits, scores)) * np.count_nonzero(hits) / n_truth


def _pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)
