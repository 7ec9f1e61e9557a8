"""From a region of a saliency map to points that prompt SAM: inside where it is salient, outside where it is not.

MedCLIP-SAMv2 draws its points at random; here they are the most and the least
salient places, spread out, so that nothing depends on a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.ndimage import distance_transform_edt

from napari_claps.methods.medclip.regions import Region


class PromptKind(StrEnum):
    """What of a region SAM is given."""

    BOXES = "boxes"
    """Its box."""
    POINTS = "points"
    """Its points, without the box."""
    BOTH = "both"
    """Its box and its points."""


@dataclass(frozen=True)
class PointRule:
    """Settings of the step.

    Parameters
    ----------
    prompts : PromptKind
    positives : int
        Points inside, at most; at least 1 unless only boxes are given.
    negatives : int
        Points outside, at most.

    Raises
    ------
    ValueError
        If there would be no prompt, or a number is negative.
    """

    prompts: PromptKind = PromptKind.BOXES
    positives: int = 1
    negatives: int = 0

    def __post_init__(self) -> None:
        if self.positives < (self.prompts is not PromptKind.BOXES) or self.negatives < 0:
            raise ValueError(f"prompts = {str(self.prompts)!r} with {self.positives} positive and {self.negatives} "
                             "negative points: points need at least one positive, and no number is below 0")


@dataclass(frozen=True)
class MapPoint:
    """Row and column of a point in the saliency map, and whether it lies inside the region."""

    row: int
    column: int
    inside: bool


NEAREST, FARTHEST = 0.5, 1.5
"""Bounds of the ring in which points lie outside, as multiples of the region's radius: an object is often larger than
what is salient of it, so the ring does not begin at the border."""


def region_points(saliency: np.ndarray, region: Region, others: Sequence[Region], rule: PointRule) -> list[MapPoint]:
    """Points of a region, those inside first; the first is its most salient place.

    Parameters
    ----------
    saliency : ndarray
        (y, x) float, finite, in which the region was found.
    region : Region
    others : sequence of Region
        Where no point counts as outside, because there are more such objects. May hold `region` itself.
    rule : PointRule

    Returns
    -------
    list of MapPoint
        Fewer than the rule says where there is no room; empty if it says boxes alone.
    """
    if rule.prompts is PromptKind.BOXES:
        return []
    inside = most(saliency, region.mask, rule.positives)
    radius = np.sqrt(np.count_nonzero(region.mask) / np.pi)
    distance = distance_transform_edt(~region.mask)
    ring = (distance > 1 + NEAREST * radius) & (distance <= 2 + FARTHEST * radius)
    for other in others:
        ring &= ~other.mask
    outside = most(-saliency, ring, rule.negatives)
    return [MapPoint(*point, True) for point in inside] + [MapPoint(*point, False) for point in outside]


def most(values: np.ndarray, where: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Up to `count` positions (row, column) of high values, as far from each other as they can be.

    The first is the highest within `where` (y, x) bool; each of the others is, among the higher half of the values,
    the farthest from those before it.
    """
    places = np.argwhere(where)
    if not count or not len(places):
        return []
    own = values[where]
    places = places[own >= np.median(own)]
    chosen = [int(values[tuple(places.T)].argmax())]
    distance = np.full(len(places), np.inf)
    while len(chosen) < min(count, len(places)):
        distance = np.minimum(distance, np.hypot(*(places - places[chosen[-1]]).T))
        chosen.append(int(distance.argmax()))
    return [(int(row), int(column)) for row, column in places[chosen]]
