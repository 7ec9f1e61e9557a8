"""From a saliency map to a few regions: what is salient is cut out, and its best components are kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.ndimage import label
from scipy.special import expit

from napari_claps.methods.medclip.crf import refine

SOFTNESS = 0.1
"""Relative saliency above the cut that a conditional random field takes for a probability of 0.73."""


class Cut(StrEnum):
    """How salient positions are told from the others."""

    KMEANS = "kmeans"
    """Two clusters of the values (MedCLIP-SAMv2's default)."""
    CRF = "crf"
    """The same, then a dense conditional random field on the colours of the image."""
    THRESHOLD = "threshold"
    """A fixed part of the highest value."""


@dataclass(frozen=True)
class RegionRule:
    """Settings of the step.

    Parameters
    ----------
    cut : Cut
    threshold : float
        Lowest relative saliency, for `Cut.THRESHOLD`.
    components : int
        Regions kept, at most.
    min_share : float
        Smallest region, as a part of the view.
    max_share : float
        Largest region, as a part of the view: what covers nearly all of it points at nothing.
    """

    cut: Cut = Cut.KMEANS
    threshold: float = 0.3
    components: int = 2
    min_share: float = 0.0005
    max_share: float = 0.7


@dataclass(frozen=True, eq=False)
class Region:
    """One salient component: its mask (y, x), its box (y0, x0, y1, x1) with the end exclusive, its mean saliency."""

    mask: np.ndarray
    box: tuple[int, int, int, int]
    saliency: float


def relative_saliency(saliency: np.ndarray) -> np.ndarray | None:
    """Scale a map (y, x) to 0..1; None where there is nothing to scale: not finite, or flat."""
    if saliency.size == 0 or not np.isfinite(saliency).all():
        return None
    low, high = float(saliency.min()), float(saliency.max())
    if not high - low > 1e-6 * max(abs(high), 1e-6):
        return None
    return ((saliency - low) / (high - low)).astype(np.float32)


def find_regions(saliency: np.ndarray, rule: RegionRule, image: np.ndarray | None = None) -> list[Region]:
    """Regions of a saliency map, the most salient first.

    Parameters
    ----------
    saliency : ndarray
        (y, x) float, any unit.
    rule : RegionRule
    image : ndarray, optional
        (Y, X, 3) float in [0, 1], of the same field at any size; needed for `Cut.CRF`.

    Returns
    -------
    list of Region
        Empty if the map is flat or not finite, or no component has a fitting size.
    """
    relative = relative_saliency(saliency)
    if relative is None:
        return []
    components, count = label(salient(relative, rule, image), structure=np.ones((3, 3)))
    found = []
    for number in range(1, count + 1):
        mask = components == number
        if not rule.min_share <= mask.mean() <= rule.max_share:
            continue
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        found.append(Region(mask, box, float(relative[mask].mean())))
    return sorted(found, key=lambda region: -region.saliency)[:rule.components]


def salient(relative: np.ndarray, rule: RegionRule, image: np.ndarray | None) -> np.ndarray:
    """Cut a map (y, x) in 0..1: bool."""
    if rule.cut is Cut.THRESHOLD:
        return relative >= rule.threshold
    level = two_means(relative)
    if rule.cut is Cut.KMEANS:
        return relative >= level
    if image is None:
        raise ValueError("the cut \"crf\" needs the image")
    return refine(expit((relative - level) / SOFTNESS), image) >= 0.5


def two_means(relative: np.ndarray) -> float:
    """Value halfway between the two cluster centres of K-means; it starts from 0 and 1, so that nothing is random."""
    centres, _ = kmeans2(relative.reshape(-1, 1), np.array([[0.0], [1.0]], relative.dtype), minit="matrix")
    return float(centres.mean())
