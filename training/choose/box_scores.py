"""How good the boxes are: average precision, recall, false alarms, and the best threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

MIN_IOU = 0.5


@dataclass
class BoxScores:
    """Scored boxes of one target, collected view by view."""

    scores: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    objects: int = 0
    absent: list[float] = field(default_factory=list)
    """Best score of each view without the target."""
    present: list[float] = field(default_factory=list)
    """Best score of each view with it."""

    def add(self, boxes: Tensor, scores: Tensor, truth: Tensor) -> None:
        """Count the boxes of one view.

        Parameters
        ----------
        boxes, truth : Tensor
            (N, 4) and (M, 4) XYXY in pixels.
        scores : Tensor
            (N,).
        """
        order = scores.argsort(descending=True)
        overlap = box_iou(boxes[order], truth) if len(truth) else torch.zeros(len(order), 0)
        taken: set[int] = set()
        for row, score in zip(overlap, scores[order].tolist(), strict=True):
            free = [(float(row[i]), i) for i in range(len(truth)) if i not in taken and row[i] >= MIN_IOU]
            if free:
                taken.add(max(free)[1])
            self.scores.append(score)
            self.hits.append(bool(free))
        self.objects += len(truth)
        best = float(scores.max()) if len(scores) else 0.0
        (self.present if len(truth) else self.absent).append(best)

    def summary(self) -> dict[str, float | int | None]:
        """AP50, the threshold of the best F1, and what it gives.

        Keys: ``objects``, ``views_present``, ``views_absent``, ``ap50``,
        ``threshold``, ``recall``, ``precision``, ``false_positive_rate`` (share
        of the views without the target in which something is found) and
        ``presence_auroc``. None where the views do not tell.
        """
        facts: dict[str, float | int | None] = {
            "objects": self.objects, "views_present": len(self.present), "views_absent": len(self.absent),
        }
        unknown = dict.fromkeys(("ap50", "threshold", "recall", "precision", "false_positive_rate", "presence_auroc"))
        if not self.objects or not self.scores:
            return facts | unknown
        order = np.argsort(-np.asarray(self.scores), kind="stable")
        scores, hits = np.asarray(self.scores)[order], np.asarray(self.hits, float)[order]
        recall = np.cumsum(hits) / self.objects
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        best = int(f1.argmax())
        alarms = [score >= scores[best] for score in self.absent]
        return facts | {
            "ap50": average_precision(precision, recall),
            "threshold": float(scores[best]),
            "recall": float(recall[best]),
            "precision": float(precision[best]),
            "false_positive_rate": float(np.mean(alarms)) if alarms else None,
            "presence_auroc": auroc(self.present, self.absent),
        }


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the precision-recall curve, each precision raised to the best at a higher recall (PASCAL VOC 2010)."""
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * ceiling))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Chance that a positive scores higher than a negative; None without both."""
    if not len(positive) or not len(negative):
        return None
    difference = np.subtract.outer(np.asarray(positive), np.asarray(negative))
    return float((np.sign(difference) + 1).mean() / 2)
