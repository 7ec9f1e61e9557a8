"""Compare predictions with the truth: per image, per target, per data set.

Distances come from SciPy, skeletons from scikit-image, AUROC and average
precision from scikit-learn. MONAI has the same measures, but on torch tensors:
comparing files must work where torch is missing, and starts faster without.
"""

from __future__ import annotations

from napari_claps.evaluate.boxes import BoxMatch, average_precision, match_boxes, object_boxes
from napari_claps.evaluate.masks import MaskScore, score_masks
from napari_claps.evaluate.summary import ImageScore, bootstrap_interval, score_table, summarise

__all__ = [
    "BoxMatch",
    "ImageScore",
    "MaskScore",
    "average_precision",
    "bootstrap_interval",
    "match_boxes",
    "object_boxes",
    "score_masks",
    "score_table",
    "summarise",
]
