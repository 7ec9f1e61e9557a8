"""One image at one working scale: its tiles go through the encoder, all heads read the result.

Where the bundle was made for it, the image is also looked at mirrored (`napari_claps.inference.mirroring`), and the
masks are the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.inference.artery_vein import vote_in_fields
from napari_claps.inference.mirroring import looks
from napari_claps.inference.scales import scaled_shape
from napari_claps.inference.stage_clock import StageClock
from napari_claps.inference.tile_mean import TileMean, resized
from napari_claps.inference.tile_prediction import TilePredictor
from napari_claps.inference.tiles import Tile, plan_tiles
from napari_claps.methods.base import Prompter, Query
from napari_claps.models.bundles.bundle import Bundle


@dataclass(eq=False)
class ScaleResult:
    """What the heads say about one slice at one scale, at the size of the slice.

    Parameters
    ----------
    probability : ndarray
        (P, y, x) float32, per prompt.
    presence : ndarray
        (P,) in [0, 1], the highest of all tiles.
    boxes : list of list
        Per prompt, (y0, x0, y1, x1, score) in pixels of the slice.
    """

    probability: np.ndarray
    presence: np.ndarray
    boxes: list[list[tuple[float, float, float, float, float]]]
    seconds: dict[str, float] = field(default_factory=dict)


def scaled_batch(planes: Sequence[np.ndarray], side: int, device: str) -> Tensor:
    """Stack (y, x, 3) float planes as (S, 3, h, w) with the long side scaled to `side`."""
    batch = torch.from_numpy(np.stack(planes)).to(device).permute(0, 3, 1, 2)
    size = scaled_shape(planes[0].shape[:2], side)
    return batch if tuple(batch.shape[-2:]) == size else F.interpolate(
        batch, size, mode="bilinear", align_corners=False, antialias=True)


def cut(batch: Tensor, tile: Tile) -> Tensor:
    """Cut a tile out of a batch; what lies beyond the border repeats it."""
    part = batch[..., tile.y:tile.y + tile.height, tile.x:tile.x + tile.width]
    missing = (0, tile.width - part.shape[-1], 0, tile.height - part.shape[-2])
    return F.pad(part, missing, mode="replicate") if any(missing) else part


@torch.inference_mode()
def encode_whole(bundle: Bundle, planes: Sequence[np.ndarray], side: int) -> Tensor:
    """CLIP embeddings (S, D) of whole planes as one view each, for the modality.

    Raises
    ------
    BundleError
        If the bundle has no CLIP.
    """
    bundle.require_clip("naming the modality", "Name the modality yourself (--modality)")
    batch = scaled_batch(planes, side, bundle.device)
    height, width = batch.shape[-2:]
    whole = Tile(0, 0, -(-height // 32) * 32, -(-width // 32) * 32)
    with bundle.precision():
        embedding = bundle.encode(cut(batch, whole)).embedding
    assert embedding is not None, "the shared encoder has run"
    embedding = embedding.float()
    bundle.check_finite(embedding)
    return embedding


@torch.inference_mode()
def segment_at_scale(bundle: Bundle, prompter: Prompter, planes: Sequence[np.ndarray], side: int,
                  queries: Sequence[Query], *, mirrored: bool = True) -> list[ScaleResult]:
    """Find prompts in slices of one shape, at one scale.

    Parameters
    ----------
    planes : sequence of ndarray
        (y, x, 3) float32 in [0, 1], all of one shape.
    side : int
        Long side of the working scale in pixels.
    queries : sequence of Query
        What to find, all of one modality.
    mirrored : bool
        Where the bundle asks for it, take the mean of masks and presence over the `mirrorings` of the modality; boxes
        are those of the image as it is. False looks once.

    Returns
    -------
    list of ScaleResult
        One for each plane.

    Raises
    ------
    BundleError
        If a network gives values that are no numbers.
    """
    seconds = dict.fromkeys(("scale", "encode", "detect", "segment", "fuse"), 0.0)
    clock = StageClock(seconds, bundle.device)
    shape = planes[0].shape[:2]
    batch = scaled_batch(planes, side, bundle.device)
    size = (batch.shape[-2], batch.shape[-1])
    factors = (shape[0] / size[0], shape[1] / size[1])
    # Masks have half the resolution: mirrored, those of an odd side would lie between the pixels of the others.
    batch = F.pad(batch, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    tiles = plan_tiles((batch.shape[-2], batch.shape[-1]))
    predictor = TilePredictor(bundle, prompter, queries)
    boxes: list[list[list[tuple[float, ...]]]] = [[[] for _ in queries] for _ in planes]
    clock.lap("scale")
    masks, presences = [], []
    for axes in looks(bundle.manifest, queries[0].pair.modality) if mirrored else ((),):
        dims = [axis - 2 for axis in axes]
        view = batch.flip(dims)
        fused = TileMean(size, tiles, slices=len(planes), prompts=len(queries), device=bundle.device)
        presence = torch.zeros(len(planes), len(queries), device=bundle.device)
        for tile in tiles:
            answer = predictor.predict(cut(view, tile), clock, all_boxes=not axes)
            presence = torch.maximum(presence, answer.presence)
            fused.add(tile, answer.masks)
            for s, items in enumerate(() if axes else answer.boxes):
                for box in items:
                    boxes[s][box.prompt].append((*_in_slice(box.corners, tile, factors), box.score))
            clock.lap("fuse")
        mask = fused.mean()
        vote_in_fields(mask, [query.prompt.target for query in queries])
        masks.append(mask.flip(dims))
        presences.append(presence)
    mean, presence = (torch.stack(each).mean(0) for each in (masks, presences))
    full = resized(mean, size, shape).cpu().numpy()
    clock.lap("fuse")
    share = {name: value / len(planes) for name, value in seconds.items()}
    return [
        ScaleResult(full[s], presence[s].cpu().numpy(),
                    [[(b[0], b[1], min(b[2], shape[0]), min(b[3], shape[1]), b[4]) for b in group]
                     for group in boxes[s]], share)
        for s in range(len(planes))
    ]


def _in_slice(corners: Sequence[float], tile: Tile, factors: tuple[float, float]) -> tuple[float, float, float, float]:
    """Corners (x0, y0, x1, y1) in a tile as (y0, x0, y1, x1) in pixels of the slice, which is larger by `factors`."""
    x0, y0, x1, y1 = corners
    return ((y0 + tile.y) * factors[0], (x0 + tile.x) * factors[1],
            (y1 + tile.y) * factors[0], (x1 + tile.x) * factors[1])
