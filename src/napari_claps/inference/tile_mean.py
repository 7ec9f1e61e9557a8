"""The masks of tiles become those of the image: a mean in which a tile counts less towards its border."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.inference.tiles import Tile, tile_weight
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE


class TileMean:
    """Adds up the masks of tiles, at the resolution of the mask head.

    Parameters
    ----------
    size : tuple of int
        Height and width of the scaled image in pixels.
    tiles : sequence of Tile
        All that will come.
    slices, prompts : int
        How many masks each has.
    device : str
    """

    def __init__(self, size: tuple[int, int], tiles: Sequence[Tile], *, slices: int, prompts: int,
                 device: str) -> None:
        extent = (max(t.y + t.height for t in tiles) // PIXEL_STRIDE, max(t.x + t.width for t in tiles) // PIXEL_STRIDE)
        self._size = size
        self._total = torch.zeros(slices, prompts, *extent, device=device)
        self._weights = torch.zeros(extent, device=device)

    def add(self, tile: Tile, masks: Tensor) -> None:
        """Add the masks (slices, prompts, h / 2, w / 2) of a tile."""
        weight = torch.from_numpy(tile_weight(tile)[::PIXEL_STRIDE, ::PIXEL_STRIDE]).to(self._weights.device)
        y, x = tile.y // PIXEL_STRIDE, tile.x // PIXEL_STRIDE
        h, w = masks.shape[-2:]
        self._total[..., y:y + h, x:x + w] += masks * weight
        self._weights[y:y + h, x:x + w] += weight

    def mean(self) -> Tensor:
        """(slices, prompts, y, x) float32 at the resolution of the mask head."""
        height, width = (-(-n // PIXEL_STRIDE) for n in self._size)
        return self._total[..., :height, :width] / self._weights[:height, :width].clamp(min=1e-6)


def resized(masks: Tensor, size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Masks of a whole image at another size of it, such as its own.

    Parameters
    ----------
    masks : Tensor
        (slices, prompts, y, x) at the resolution of the mask head.
    size : tuple of int
        Height and width in pixels of the scaled image that they are of. Where one is odd, the last mask pixel lies half
        beyond the image.
    shape : tuple of int
        Height and width that are wanted.
    """
    if all(n % PIXEL_STRIDE == 0 for n in size):
        return F.interpolate(masks, shape, mode="bilinear", align_corners=False)
    for axis, length, wanted in zip((-2, -1), size, shape, strict=True):
        centres = (torch.arange(wanted, device=masks.device) + 0.5) * length / wanted
        place = (centres / PIXEL_STRIDE - 0.5).clamp(0, masks.shape[axis] - 1)
        low = place.long().clamp(max=masks.shape[axis] - 2)
        share = (place - low).reshape(-1, 1) if axis == -2 else place - low
        masks = torch.lerp(masks.index_select(axis, low), masks.index_select(axis, low + 1), share)
    return masks
