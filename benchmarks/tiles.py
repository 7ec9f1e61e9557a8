"""Any network over the tiles of an image, cut and put together as the pipeline does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.inference.single_scale import cut, scaled_batch
from napari_claps.inference.tile_mean import TileMean, resized
from napari_claps.inference.tiles import Tile, plan_tiles


@torch.inference_mode()
def fuse_tiles(image: np.ndarray, side: int, device: str, predict: Callable[[Tensor, Tile], Tensor],
               flips: Sequence[tuple[int, ...]] = ((),)) -> np.ndarray:
    """Probabilities of a whole image.

    Parameters
    ----------
    image : ndarray
        (y, x, 3) float32 in [0, 1].
    side : int
        Long side of the working scale in pixels.
    predict : callable
        Gives probabilities (P, h / 2, w / 2) of a view (1, 3, h, w) and its tile.
    flips : sequence of tuple of int
        Axes of (y, x) that are flipped in each look at the image; the result is the mean.

    Returns
    -------
    ndarray
        (P, y, x) float32 at the size of the image.
    """
    batch = scaled_batch([image], side, device)
    size = (batch.shape[-2], batch.shape[-1])
    batch = F.pad(batch, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    tiles = plan_tiles((batch.shape[-2], batch.shape[-1]))
    looks = []
    for axes in flips:
        dims = [axis - 2 for axis in axes]
        view, fused = batch.flip(dims), None
        for tile in tiles:
            found = predict(cut(view, tile), tile).float()
            fused = fused or TileMean(size, tiles, slices=1, prompts=len(found), device=device)
            fused.add(tile, found[None])
        looks.append(fused.mean().flip(dims))
    return resized(torch.stack(looks).mean(0), size, image.shape[:2])[0].cpu().numpy()
