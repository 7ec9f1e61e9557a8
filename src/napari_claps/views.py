"""How an image is cut into views: scales per modality and kind of target, tiles, and their fusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_claps.types import Modality
from napari_claps.vocabulary import Kind

MULTIPLE = 32
"""Sides of a view are multiples of the coarsest stride."""

TILE = 512
OVERLAP = 64
MAX_SINGLE_VIEW = 1024 * 640
"""Images up to this many pixels at working scale are one view, without tiles."""

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


def mirrorings(modality: Modality) -> tuple[tuple[int, ...], ...]:
    """Axes of (y, x) along which an image is flipped for each look at it; the first is the image as it is.

    Up and down are not alike in a B-scan.
    """
    return ((), (1,)) if modality is Modality.OCT else ((), (1,), (0,), (0, 1))


@dataclass(frozen=True)
class Tile:
    """A rectangle of the scaled image: first row and column, and size in pixels."""

    y: int
    x: int
    height: int
    width: int


def scaled_shape(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Shape (y, x) with the long side scaled to `side`, at least 32 pixels a side."""
    factor = side / max(shape)
    return max(MULTIPLE, round(shape[0] * factor)), max(MULTIPLE, round(shape[1] * factor))


def plan_tiles(shape: tuple[int, int]) -> list[Tile]:
    """Tiles that cover a scaled image.

    One tile if the image is small enough; its sides are rounded up to
    multiples of 32 (the image is padded). Otherwise squares of `TILE` pixels
    with about `OVERLAP` pixels in common or more, which begin at even pixels:
    masks are made at half the resolution, and an odd tile would lie between
    their pixels.
    """
    if shape[0] * shape[1] <= MAX_SINGLE_VIEW and max(shape) <= 1024:
        return [Tile(0, 0, _round_up(shape[0]), _round_up(shape[1]))]
    sides = [min(TILE, _round_up(n)) for n in shape]
    starts = []
    for length, side in zip(shape, sides, strict=True):
        count = 1 if length <= side else int(np.ceil((length - OVERLAP) / (side - OVERLAP)))
        last = -(-max(0, length - side) // 2)
        starts.append([2 * round(i * last / max(1, count - 1)) for i in range(count)])
    return [Tile(y, x, sides[0], sides[1]) for y in starts[0] for x in starts[1]]


def tile_weight(tile: Tile) -> np.ndarray:
    """Weight (y, x) float32 of a tile's pixels in the mean over tiles: falls off towards the border."""
    ramps = []
    for length in (tile.height, tile.width):
        distance = np.minimum(np.arange(length) + 1, np.arange(length, 0, -1))
        ramps.append(np.minimum(distance / OVERLAP, 1).astype(np.float32))
    return np.outer(ramps[0], ramps[1])


def _round_up(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE
