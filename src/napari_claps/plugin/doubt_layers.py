"""Places of a result that somebody should look at, as a masks layer keeps them in its metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_claps.plugin.layers import KEY, plain
from napari_claps.trust.anatomy import Violation
from napari_claps.volumes.doubts import Doubt

if TYPE_CHECKING:
    from napari.layers import Layer


class Kind(StrEnum):
    """Why a place is listed."""

    DOUBT = "doubt"
    """One slice of a volume says it and its neighbours do not (`napari_claps.volumes.doubts`)."""
    ANATOMY = "anatomy"
    """It cannot be in an eye (`napari_claps.trust.anatomy`)."""


LISTS = {Kind.ANATOMY: "violations", Kind.DOUBT: "doubts"}
"""Where what we know of a layer keeps its places."""


@dataclass(frozen=True)
class Place:
    """A place in a layer.

    Parameters
    ----------
    kind : Kind
    slice_index : int
    instance : int
        Number of the object, 0 when none or several are meant.
    reason : str
    position : tuple of float
        (y, x) or (z, y, x) in pixels of the layer.
    severity : float or None
        From 0 to 1; what cannot be has none.
    """

    kind: Kind
    slice_index: int
    instance: int
    reason: str
    position: tuple[float, ...]
    severity: float | None


def places_of(layer: Layer) -> Iterator[Place]:
    """Yield the places that a layer carries and that its own pixels can hold; a file may say anything."""
    known = layer.metadata.get(KEY)
    for kind, name in LISTS.items() if isinstance(known, dict) else ():
        for values in listed if isinstance(listed := known.get(name), list) else ():
            place = _place(kind, values)
            if place is not None and len(place.position) == layer.ndim and np.isfinite(place.position).all():
                yield place


def plain_doubts(doubts: Iterable[Doubt]) -> list[dict[str, Any]]:
    """Doubts in plain JSON types."""
    return [plain(dataclasses.asdict(doubt)) for doubt in doubts]


def plain_violation(violation: Violation, mask: np.ndarray, *, is_volume: bool) -> dict[str, Any]:
    """A violation in plain JSON types, with its middle and the number of its object in the (y, x) `mask`."""
    y0, x0, y1, x1 = violation.box
    middle = ((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2)  # pixel centres lie on whole numbers
    position = (float(violation.slice_index), *middle) if is_volume else middle
    return plain({**dataclasses.asdict(violation), "instance": _object_in(mask[y0:y1, x0:x1]), "position": position})


def _object_in(crop: np.ndarray) -> int:
    """Number of the one object that fills the crop from side to side, else 0."""
    whole = tuple(slice(0, n) for n in crop.shape)
    filling = [number for number, place in enumerate(ndimage.find_objects(crop), start=1) if place == whole]
    return filling[0] if len(filling) == 1 else 0


def _place(kind: Kind, values: Any) -> Place | None:
    if not isinstance(values, Mapping):
        return None
    try:
        severity = float(values["severity"]) if kind is Kind.DOUBT else None
        position = tuple(np.asarray(values["position"], float).tolist())
        return Place(kind, int(values["slice_index"]), int(values["instance"]), str(values["reason"]), position,
                     severity)
    except (TypeError, KeyError, ValueError):
        return None
