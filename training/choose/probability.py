"""Probability maps out of the pipeline, and the area under their precision-recall curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_claps.inference.pipeline import Pipeline
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.settings import Settings

LEVELS = 1 << 16
"""Probabilities are counted in steps of 1/65535: as fine as a half-precision network says them."""


class ProbabilityPipeline(Pipeline):
    """A pipeline that keeps the probability maps of the slice it looked at last.

    Attributes
    ----------
    probability : dict of label to ndarray
        (y, x) float32 in [0, 1], at the size of the image, before any threshold.
    """

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        super().__init__(bundle, settings)
        self.probability: dict[str, np.ndarray] = {}

    def _look(self, planes: list[np.ndarray], side: int, queries: Sequence[Query], *rest: Any, **named: Any) -> Any:
        results, means = super()._look(planes, side, queries, *rest, **named)
        self.probability |= {query.prompt.label: results[-1].probability[i] for i, query in enumerate(queries)}
        return results, means


class PrecisionRecall:
    """Precision and recall of the pixels of many images at every threshold, in the memory of two histograms.

    All pixels count alike, as in the challenge of IDRiD (Porwal et al., MedIA 2020), and not all images.
    """

    def __init__(self) -> None:
        self._inside, self._outside = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)

    def add(self, probability: np.ndarray, truth: np.ndarray, field: np.ndarray | None = None) -> None:
        """Count the pixels of an image.

        Parameters
        ----------
        probability : ndarray
            (y, x) in [0, 1].
        truth : ndarray
            (y, x) bool.
        field : ndarray, optional
            (y, x) bool; only pixels within it count.
        """
        level = np.rint(np.clip(probability, 0, 1) * (LEVELS - 1)).astype(np.uint16)
        counted = np.ones(truth.shape, bool) if field is None else field
        self._inside += np.bincount(level[truth & counted], minlength=LEVELS)
        self._outside += np.bincount(level[~truth & counted], minlength=LEVELS)

    def area(self) -> float:
        """Average precision: the mean of the precision over the recall, without interpolation; NaN without any object.

        The same number as `sklearn.metrics.average_precision_score` gives for these levels.
        """
        right, wrong = np.cumsum(self._inside[::-1]), np.cumsum(self._outside[::-1])
        if not right[-1]:
            return math.nan
        precision = right / np.maximum(right + wrong, 1)
        return float(np.sum(np.diff(right, prepend=0) / right[-1] * precision))
