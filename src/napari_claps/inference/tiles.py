"""The tiles that cover a large image, and what their pixels count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_claps.inference.scales import MULTIPLE

TILE = 512
OVERLAP = 64
MAX_SINGLE_VIEW = 1024 * 640
"""Images up to this many pixels at working scale are one view, without tiles."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of the scaled image: first row and column, and size in pixels."""

    y: int
    x: int
    height: int
    width: int


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
