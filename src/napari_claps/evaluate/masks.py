"""Agreement of a predicted mask with the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

from napari_claps.errors import InputError


@dataclass(frozen=True)
class MaskScore:
    """Agreement of one predicted mask with one true mask.

    Where the target is absent from the truth every measure of overlap, distance
    and size error is NaN: there is nothing to overlap with, and `found` says
    whether the prediction was a false positive. Where the target is present and
    nothing was predicted, overlaps are 0 and the distance is the diagonal of the
    image: a failure is counted, not dropped.

    Parameters
    ----------
    present : bool
        Whether the truth has a pixel of the target (inside the field of view).
    found : bool
        Whether the prediction has one.
    dice, iou, precision, recall : float
        In [0, 1].
    hd95 : float
        The larger of the two directed 95th percentiles of the distance between the
        surfaces, in `length_unit`.
    cldice : float
        Centreline Dice (Shit et al., CVPR 2021) in [0, 1]; NaN unless it was asked for.
    truth_size, predicted_size : float
        Area or volume in `size_unit`.
    size_error : float
        (predicted - true) / true size, signed.
    length_unit : {"px", "mm"}
    size_unit : {"px", "mm2", "mm3"}
    """

    present: bool
    found: bool
    dice: float
    iou: float
    precision: float
    recall: float
    hd95: float
    cldice: float
    truth_size: float
    predicted_size: float
    size_error: float
    length_unit: str
    size_unit: str


def score_masks(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    field: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
    centreline: bool = False,
) -> MaskScore:
    """Compare a predicted mask with the true one.

    Parameters
    ----------
    predicted, truth : ndarray
        (y, x) or (z, y, x), any dtype; non-zero is the target.
    field : ndarray or None
        Field of view in the same shape; what lies outside is ignored in both masks.
    spacing : sequence of float or None
        mm per axis; ``None`` gives distances and sizes in pixels.
    centreline : bool
        Compute clDice too (for vessels).

    Raises
    ------
    InputError
        If the shapes differ, or the spacing does not fit them.
    """
    for name, other in (("true mask", truth), ("field of view", field)):
        if other is not None and other.shape != predicted.shape:
            raise InputError(
                f"The predicted mask has shape {predicted.shape} but the {name} {other.shape}; they must be the same. "
                "Compare masks at the size of the original image."
            )
    if spacing is not None and (len(spacing) != truth.ndim or not all(np.isfinite(s) and s > 0 for s in spacing)):
        raise InputError(f"spacing {tuple(spacing)} must be {truth.ndim} positive numbers in mm, one for each axis.")
    p, t = predicted.astype(bool), truth.astype(bool)
    if field is not None:
        p, t = p & field.astype(bool), t & field.astype(bool)
    n_both, n_predicted, n_truth = (int(np.count_nonzero(m)) for m in (p & t, p, t))
    step = (1.0,) * t.ndim if spacing is None else tuple(float(s) for s in spacing)
    pixel = math.prod(step)
    nan = math.nan
    unknown = MaskScore(
        present=n_truth > 0,
        found=n_predicted > 0,
        truth_size=n_truth * pixel,
        predicted_size=n_predicted * pixel,
        length_unit="px" if spacing is None else "mm",
        size_unit="px" if spacing is None else f"mm{t.ndim}",
        dice=nan, iou=nan, precision=nan, recall=nan, hd95=nan, cldice=nan, size_error=nan,
    )  # fmt: skip
    if not n_truth:
        return unknown
    return replace(
        unknown,
        dice=2 * n_both / (n_predicted + n_truth),
        iou=n_both / (n_predicted + n_truth - n_both),
        precision=n_both / n_predicted if n_predicted else 0.0,
        recall=n_both / n_truth,
        hd95=_hausdorff95(p, t, step)
        if n_predicted
        else math.hypot(*(n * s for n, s in zip(t.shape, step, strict=True))),
        cldice=_centreline_dice(p, t) if centreline else math.nan,
        size_error=(n_predicted - n_truth) / n_truth,
    )


def _hausdorff95(p: np.ndarray, t: np.ndarray, step: Sequence[float]) -> float:
    """Larger of the two directed 95th percentiles, both masks non-empty."""
    surfaces = [np.argwhere(m & ~binary_erosion(m)) * np.asarray(step) for m in (p, t)]
    trees = [KDTree(points) for points in surfaces]
    there, back = trees[1].query(surfaces[0])[0], trees[0].query(surfaces[1])[0]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _centreline_dice(p: np.ndarray, t: np.ndarray) -> float:
    """Harmonic mean of topology precision and sensitivity; `t` is non-empty."""
    skeleton_p, skeleton_t = skeletonize(p), skeletonize(t)
    n_p, n_t = np.count_nonzero(skeleton_p), np.count_nonzero(skeleton_t)
    if not n_p or not n_t:
        return 0.0
    precision, sensitivity = np.count_nonzero(skeleton_p & t) / n_p, np.count_nonzero(skeleton_t & p) / n_t
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0
