"""Any network over the tiles of an image, cut and put together as the pipeline does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.field import cut, scaled_batch
from napari_claps.models.segmenter import PIXEL_STRIDE
from napari_claps.types import Modality
from napari_claps.views import Tile, plan_tiles, tile_weight, working_side
from napari_claps.vocabulary import TARGETS


def targets_by_side(modality: Modality, targets: Iterable[str], shape: tuple[int, int]) -> dict[int, list[str]]:
    """Group targets by the long side at which the pipeline looks for them."""
    groups: dict[int, list[str]] = {}
    for target in targets:
        groups.setdefault(working_side(modality, TARGETS[target].kind, shape), []).append(target)
    return groups


@torch.inference_mode()
def fuse_tiles(image: np.ndarray, side: int, device: str, predict: Callable[[Tensor, Tile], Tensor]) -> np.ndarray:
    """Probabilities of a whole image.

    Parameters
    ----------
    image : ndarray
        (y, x, 3) float32 in [0, 1].
    side : int
        Long side of the working scale in pixels.
    predict : callable
        Gives probabilities (P, h / 2, w / 2) of a view (1, 3, h, w) and its tile.

    Returns
    -------
    ndarray
        (P, y, x) float32 at the size of the image.
    """
    batch = scaled_batch([image], side, device)
    size = (batch.shape[-2], batch.shape[-1])
    tiles = plan_tiles(size)
    extent = [max(getattr(t, a) + getattr(t, b) for t in tiles) // PIXEL_STRIDE
              for a, b in (("y", "height"), ("x", "width"))]
    total, weights = torch.zeros(1, *extent, device=device), torch.zeros(extent, device=device)
    for tile in tiles:
        found = predict(cut(batch, tile), tile).float()
        weight = torch.from_numpy(tile_weight(tile)[::PIXEL_STRIDE, ::PIXEL_STRIDE]).to(device)
        rows = slice(tile.y // PIXEL_STRIDE, tile.y // PIXEL_STRIDE + found.shape[-2])
        columns = slice(tile.x // PIXEL_STRIDE, tile.x // PIXEL_STRIDE + found.shape[-1])
        if len(total) != len(found):
            total = total.expand(len(found), -1, -1).clone()
        total[:, rows, columns] += found * weight
        weights[rows, columns] += weight
    height, width = (-(-n // PIXEL_STRIDE) for n in size)
    mean = total[:, :height, :width] / weights[:height, :width].clamp(min=1e-6)
    return F.interpolate(mean[None], image.shape[:2], mode="bilinear", align_corners=False)[0].cpu().numpy()
