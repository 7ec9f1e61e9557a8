"""Places in a volume that somebody should look at: what one slice says and its neighbours do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
import pandas as pd

from napari_claps.volumes.numbering import VolumeLinks

JUMP = 3.0
"""Ratio of areas in neighbouring slices from which an object jumps. An ellipsoid's does so only at its ends."""

PRESENCE_STEP = 0.5
"""Difference of presence from both neighbours from which a slice disagrees with them."""


LEAST = 0.05
"""Severity below which a place is not worth a look: specks, which can be many. What was removed is always listed."""


class Reason(StrEnum):
    """Why a place is doubtful."""

    SINGLE_SLICE = "single slice"
    """An object that no neighbour shows."""
    REMOVED = "removed flicker"
    """One that was removed for that."""
    AREA_JUMP = "sudden jump of area"
    """An object much larger or smaller than in the slice before."""
    MISSING = "missing between neighbours"
    """An object that the slices before and after show."""
    DISAGREEMENT = "disagreement of neighbours"
    """A target that is there in both neighbours and not here, or much less or more likely than in both."""


@dataclass(frozen=True)
class Doubt:
    """A doubtful place.

    Parameters
    ----------
    slice_index : int
    label : str
        Target.
    instance : int
        Number of the object in the volume; 0 when no object of the masks is meant.
    reason : Reason
    position : tuple of float
        (z, y, x) in voxels.
    severity : float
        From 0 to 1, the highest first.
    """

    slice_index: int
    label: str
    instance: int
    reason: Reason
    position: tuple[float, float, float]
    severity: float


def doubtful_places(links: VolumeLinks) -> list[Doubt]:
    """List the doubtful places of a volume, the most severe first.

    Severity is for an object in a single slice ``1 - score`` (after damping),
    for a removed one its score, for a jump ``1 - smaller / larger area``, for
    a missing object the mean score of its neighbours, and for a disagreement
    the difference of presence (at least 0.5). Without a score it is 0.5. The
    first two are multiplied by the area over `LinkRule.small` where that is
    below 1, so that specks do not come first; below `LEAST` a place is left
    out, unless something was removed there.

    Parameters
    ----------
    links : VolumeLinks

    Returns
    -------
    list of Doubt
    """
    doubts: list[Doubt] = []
    for label, rows in links.objects.groupby("label", sort=False):
        gone = rows[rows["number"] == 0]
        doubts += [_doubt(links, r, 0, Reason.REMOVED, r.score * _weight(links, r.area)) for r in gone.itertuples()]
        for number, chain in rows[rows["number"] > 0].groupby("number"):
            doubts += _of_chain(links, label, int(number), chain)
    listed = {(d.slice_index, d.label) for d in doubts if d.reason is not Reason.AREA_JUMP}
    for label in links.presence:
        doubts += [d for d in _disagreements(links, label) if (d.slice_index, label) not in listed]
    doubts = [d for d in doubts if d.severity >= LEAST or d.reason is Reason.REMOVED]
    return sorted(doubts, key=lambda d: (-d.severity, d.slice_index, d.label, d.instance))


def _of_chain(links: VolumeLinks, label: str, number: int, rows: pd.DataFrame) -> Iterator[Doubt]:
    """Doubts about one object."""
    slices = rows.groupby("order")[["area", "pixels"]].sum()
    weighted = rows[["y", "x"]].mul(rows["pixels"], axis=0).groupby(rows["order"]).sum()
    slices[["y", "x"]] = weighted.div(slices["pixels"], axis=0)
    slices["damped"] = rows.groupby("order")["damped"].max()
    slices["slice"] = rows.groupby("order")["slice"].first()
    places = list(slices.reset_index().itertuples(index=False))
    if len(places) == 1:
        if _has_neighbour(links, places[0].order):
            (place,) = places
            unsure = (1 - place.damped) * _weight(links, place.area)
            yield _doubt(links, place, number, Reason.SINGLE_SLICE, unsure, label)
        return
    yield from _jumps(links, label, number, places)
    for before, after in pairwise(places):
        between = range(before.order + 1, after.order)
        for order in between if all(links.neighbours[before.order + 1:after.order + 1]) else ():
            middle = ((before.y + after.y) / 2, (before.x + after.x) / 2)
            yield Doubt(links.slices[order], label, number, Reason.MISSING, (float(links.slices[order]), *middle),
                        _severity((before.damped + after.damped) / 2))


def _jumps(links: VolumeLinks, label: str, number: int, places: list) -> Iterator[Doubt]:
    last = 0  # direction of the jump into the slice before
    for k, (before, after) in enumerate(pairwise(places), start=1):
        small, large = sorted((before.area, after.area))
        smaller_is_end = (before.area < after.area and k == 1) or (after.area < before.area and k == len(places) - 1)
        jumps = (after.order == before.order + 1 and links.neighbours[after.order] and large > JUMP * small
                 and large - small > links.rule.small and not smaller_is_end)
        direction = int(np.sign(after.area - before.area)) if jumps else 0
        # Out of an outlier is the same jump as into it.
        if direction and direction != -last:
            yield _doubt(links, after, number, Reason.AREA_JUMP, 1 - small / large, label)
            last = direction
        else:
            last = 0


def _disagreements(links: VolumeLinks, label: str) -> Iterator[Doubt]:
    presence = links.presence[label]
    rows = links.objects[(links.objects["label"] == label) & (links.objects["number"] > 0)]
    shown = set(rows["order"])
    for k in range(1, len(links.slices) - 1):
        if not (links.neighbours[k] and links.neighbours[k + 1]):
            continue
        steps = [presence[k] - presence[k - 1], presence[k] - presence[k + 1]]
        step = min(map(abs, steps)) if steps[0] * steps[1] > 0 else 0.0
        hole = k not in shown and {k - 1, k + 1} <= shown
        if step > PRESENCE_STEP or hole:
            near = rows[rows["order"] == k] if k in shown else rows[rows["order"].isin((k - 1, k + 1))]
            y, x = (np.average(near[["y", "x"]], axis=0, weights=near["pixels"]) if len(near)
                    else (np.array(links.plane_shape) - 1) / 2)
            yield Doubt(links.slices[k], label, 0, Reason.DISAGREEMENT, (float(links.slices[k]), float(y), float(x)),
                        max(step, 0.5))


def _has_neighbour(links: VolumeLinks, order: int) -> bool:
    return links.neighbours[order] or (order + 1 < len(links.slices) and links.neighbours[order + 1])


def _doubt(links: VolumeLinks, place, number: int, reason: Reason, severity: float, label: str | None = None) -> Doubt:
    return Doubt(int(place.slice), label or place.label, number, reason,
                 (float(place.slice), float(place.y), float(place.x)), _severity(severity))


def _weight(links: VolumeLinks, area: float) -> float:
    """Share of the smallest object that counts: what is smaller comes further down the list."""
    return min(1.0, area / links.rule.small) if links.rule.small else 1.0


def _severity(value: float) -> float:
    return 0.5 if np.isnan(value) else float(np.clip(value, 0, 1))
