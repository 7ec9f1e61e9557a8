"""Average precision of scored boxes, as COCO defines it."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EVERY_NEIGHBOUR = np.ones((3, 3), dtype=bool)
"""8-connectivity: pixels that touch at a corner are one object."""


@dataclass(frozen=True, eq=False)
class SliceBoxes:
    """Predicted and true boxes of one target in one slice.

    Parameters
    ----------
    predicted, truth : ndarray
        (n, 4) and (m, 4) float64, ``(y0, x0, y1, x1)`` in pixels, end exclusive.
    scores : ndarray
        (n,), of the predicted boxes.
    """

    predicted: np.ndarray
    scores: np.ndarray
    truth: np.ndarray

    def __post_init__(self) -> None:
        for name in ("predicted", "truth"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float).reshape(-1, 4))
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=float).reshape(len(self.predicted)))


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


def average_precision(slices: Iterable[SliceBoxes], *, iou: float = 0.5) -> float:
    """Average precision over all slices, those without the target included.

    Computed by pycocotools, without a limit on the number of boxes. NaN when there is no true box at all.

    Parameters
    ----------
    slices : iterable of SliceBoxes
        Of one target.
    iou : float
        Least overlap of a hit.
    """
    slices = list(slices)
    if not any(len(s.truth) for s in slices):
        return math.nan
    if not any(len(s.predicted) for s in slices):  # pycocotools cannot load nothing
        return 0.0
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = [
        {"image_id": i, "category_id": 1, "bbox": _xywh(box), "score": float(score)}
        for i, s in enumerate(slices)
        for box, score in zip(s.predicted, s.scores, strict=True)
    ]
    true = [_annotation(i, box) for i, s in enumerate(slices) for box in s.truth]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(slices))],
            "categories": [{"id": 1}],
            "annotations": [{**annotation, "id": k} for k, annotation in enumerate(true, start=1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.maxDets = [max(len(s.predicted) for s in slices)]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"].mean())


def _xywh(box: np.ndarray) -> list[float]:
    y0, x0, y1, x1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _annotation(image: int, box: np.ndarray) -> dict[str, object]:
    x, y, width, height = _xywh(box)
    return {"image_id": image, "category_id": 1, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
