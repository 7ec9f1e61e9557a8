"""From scores of images to a table per data set and target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from napari_claps.evaluate.boxes import SliceBoxes, average_precision
from napari_claps.evaluate.masks import MaskScore

MEANS = ("dice", "iou", "precision", "recall", "hd95", "cldice")
"""Measures that are averaged over the images in which the target is present."""


@dataclass(frozen=True, eq=False)
class ImageScore:
    """How well one target was found in one image or volume.

    Parameters
    ----------
    dataset, image, target : str
        Names for the tables.
    masks : MaskScore
    presence : float
        Predicted score in [0, 1] that the target is there at all; NaN when it is not known.
    boxes : tuple of SliceBoxes
        One per slice; empty when boxes are not compared.
    """

    dataset: str
    image: str
    target: str
    masks: MaskScore
    presence: float = math.nan
    boxes: tuple[SliceBoxes, ...] = ()


def score_table(scores: Sequence[ImageScore]) -> pd.DataFrame:
    """One row per image and target, with the fields of `MaskScore` as columns."""
    rows = [
        {
            "dataset": s.dataset,
            "image": s.image,
            "target": s.target,
            "presence": s.presence,
            **dataclasses.asdict(s.masks),
        }
        for s in scores
    ]
    columns = ["dataset", "image", "target", "presence", *(f.name for f in dataclasses.fields(MaskScore))]
    return pd.DataFrame(rows, columns=columns)


def summarise(scores: Sequence[ImageScore], *, seed: int = 0) -> pd.DataFrame:
    """One row per data set and target, in order of appearance.

    Returns
    -------
    DataFrame
        ``dataset, target, n_present, n_absent``; the means of Dice, IoU, precision,
        recall, HD95 (in ``length_unit``) and clDice over the images where the target
        is present; ``dice_low, dice_high``, the bootstrap 95 % interval of the mean
        Dice; ``size_bias`` and ``size_error``, mean signed and mean absolute relative
        error of area or volume; ``sensitivity``, ``specificity`` and
        ``false_positive_rate`` of "there is at least one pixel"; ``auroc`` of the
        presence score; ``ap50`` of the boxes. What cannot be computed is NaN.
    """
    groups: dict[tuple[str, str], list[ImageScore]] = {}
    for score in scores:
        groups.setdefault((score.dataset, score.target), []).append(score)
    rows = [_summary_row(dataset, target, group, seed) for (dataset, target), group in groups.items()]
    return pd.DataFrame(rows)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; images are drawn with replacement.

    Returns NaN, NaN for fewer than two values.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(n_resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _summary_row(dataset: str, target: str, group: list[ImageScore], seed: int) -> dict[str, object]:
    there = [s.masks for s in group if s.masks.present]
    not_there = [s.masks for s in group if not s.masks.present]
    low, high = bootstrap_interval([m.dice for m in there], seed=seed)
    units = {m.length_unit for m in there}
    means = {name: _mean([getattr(m, name) for m in there]) for name in MEANS}
    if len(units) > 1:  # a mean of pixels and millimetres says nothing
        means["hd95"] = math.nan
    false_positive_rate = _mean([m.found for m in not_there])
    return {
        "dataset": dataset,
        "target": target,
        "n_present": len(there),
        "n_absent": len(not_there),
        "dice": means.pop("dice"),
        "dice_low": low,
        "dice_high": high,
        **means,
        "length_unit": units.pop() if len(units) == 1 else "",
        "size_bias": _mean([m.size_error for m in there]),
        "size_error": _mean([abs(m.size_error) for m in there]),
        "sensitivity": _mean([m.found for m in there]),
        "specificity": 1 - false_positive_rate,
        "false_positive_rate": false_positive_rate,
        "auroc": _auroc(group),
        "ap50": average_precision([b for s in group for b in s.boxes]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _auroc(group: list[ImageScore]) -> float:
    """Chance that an image with the target has a higher presence score than one without."""
    there, not_there = ([s.presence for s in group if s.masks.present is present] for present in (True, False))
    if not there or not not_there or not np.isfinite(there + not_there).all():
        return math.nan
    # The area under the ROC curve is the Mann-Whitney statistic over the number of pairs.
    return float(mannwhitneyu(there, not_there, method="asymptotic").statistic) / (len(there) * len(not_there))
