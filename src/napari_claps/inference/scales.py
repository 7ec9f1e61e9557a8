"""The scale at which a target is looked for, by modality and kind of target."""

from __future__ import annotations

import numpy as np

from napari_claps.types import Modality
from napari_claps.words.vocabulary import Kind

MULTIPLE = 32
"""Sides of a view are multiples of the coarsest stride."""

FIELD_SIDE = 512
"""Long side at which the whole field is seen, for the modality and compact targets of en-face images."""

_SIDES: dict[Modality, dict[Kind, tuple[int, int]]] = {
    Modality.CFP: {Kind.TREE: (1024, 1792), Kind.LESION: (1536, 2048)},
    Modality.UWF: {Kind.TREE: (2560, 2560), Kind.LESION: (1536, 2048)},
    Modality.SLO: {Kind.TREE: (1152, 1152)},
    Modality.FFA: {Kind.LESION: (1024, 1024)},
    Modality.OCTA: {Kind.TREE: (640, 800)},
}
"""Smallest and largest long side for targets that are thin or small; between them the image keeps its own pixels."""

_MAGNIFICATION = {Modality.OCTA: 2}
"""Angiograms have few pixels, and capillaries one or two of them: between the limits they are magnified."""

_BSCAN_SIDES = (640, 768)


def working_side(modality: Modality, kind: Kind, shape: tuple[int, int]) -> int:
    """Long side in pixels at which a target of this kind is looked for.

    B-scans stay near their own sampling, because cysts are a few pixels wide;
    the limits hold back very short and very long scans.
    """
    if modality is Modality.OCT:
        low, high = _BSCAN_SIDES
    else:
        low, high = _SIDES.get(modality, {}).get(kind, (FIELD_SIDE, FIELD_SIDE))
    return int(np.clip(_MAGNIFICATION.get(modality, 1) * max(shape), low, high))


def scaled_shape(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Shape (y, x) with the long side scaled to `side`, at least 32 pixels a side."""
    factor = side / max(shape)
    return max(MULTIPLE, round(shape[0] * factor)), max(MULTIPLE, round(shape[1] * factor))
