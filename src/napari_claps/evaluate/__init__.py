"""Compare predictions with the truth: per image, per target, per data set.

Distances and ranks come from SciPy, skeletons from scikit-image, average
precision from pycocotools: all of them are installed anyway. MONAI has the same
measures, but on torch tensors: comparing files must work where torch is
missing, and starts faster without.
"""

from __future__ import annotations

from napari_claps.evaluate.boxes import SliceBoxes, average_precision, object_boxes
from napari_claps.evaluate.masks import MaskScore, score_masks
from napari_claps.evaluate.summary import ImageScore, bootstrap_interval, score_table, summarise

__all__ = [
    "ImageScore",
    "MaskScore",
    "SliceBoxes",
    "average_precision",
    "bootstrap_interval",
    "object_boxes",
    "score_masks",
    "score_table",
    "summarise",
]
