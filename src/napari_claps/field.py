"""One image at one working scale: its tiles go through the encoder once, all heads read the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.models.bundle import Bundle
from napari_claps.models.manifest import Pair
from napari_claps.models.segmenter import PIXEL_STRIDE, MaskPrompts
from napari_claps.prompters import Prompter
from napari_claps.types import Prompt
from napari_claps.views import Tile, plan_tiles, scaled_shape, tile_weight
from napari_claps.vocabulary import TARGETS, Kind

MAX_BOXES = 48
"""Boxes per view that are passed on to the mask decoder, best first."""


@dataclass(eq=False)
class FieldResult:
    """What the heads say about one slice at one scale, at the size of the slice.

    Parameters
    ----------
    probability : ndarray
        (P, y, x) float32, per prompt.
    presence : ndarray
        (P,) in [0, 1], the highest of all tiles.
    boxes : list of list
        Per prompt, (y0, x0, y1, x1, score) in pixels of the slice.
    embedding : Tensor or None
        (D,) CLIP embedding if the whole field was a single view.
    """

    probability: np.ndarray
    presence: np.ndarray
    boxes: list[list[tuple[float, float, float, float, float]]]
    embedding: Tensor | None
    seconds: dict[str, float] = field(default_factory=dict)


def is_boxed(prompt: Prompt) -> bool:
    """Whether boxes help: a box is a bad prompt for a tree or a band."""
    return prompt.target is None or TARGETS[prompt.target].kind in (Kind.OBJECT, Kind.LESION)


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
def encode_field(bundle: Bundle, planes: Sequence[np.ndarray], side: int) -> Tensor:
    """CLIP embeddings (S, D) of whole planes as one view each, for the modality."""
    batch = scaled_batch(planes, side, bundle.device)
    height, width = batch.shape[-2:]
    whole = Tile(0, 0, -(-height // 32) * 32, -(-width // 32) * 32)
    return bundle.clip.encode_image(cut(batch, whole)).embedding


@torch.inference_mode()
def segment_field(bundle: Bundle, prompter: Prompter, planes: Sequence[np.ndarray], side: int,
                  prompts: Sequence[Prompt], pairs: Sequence[Pair]) -> list[FieldResult]:
    """Find prompts in slices of one shape, at one scale.

    Parameters
    ----------
    planes : sequence of ndarray
        (y, x, 3) float32 in [0, 1], all of one shape.
    side : int
        Long side of the working scale in pixels.
    prompts, pairs
        What to find, and the thresholds of each.

    Returns
    -------
    list of FieldResult
        One for each plane.
    """
    seconds = dict.fromkeys(("scale", "encode", "detect", "segment", "fuse"), 0.0)
    clock = _Clock(seconds)
    shape = planes[0].shape[:2]
    batch = scaled_batch(planes, side, bundle.device)
    size = tuple(batch.shape[-2:])
    factors = (shape[0] / size[0], shape[1] / size[1])
    tiles = plan_tiles(size)
    extent = (max(t.y + t.height for t in tiles) // PIXEL_STRIDE, max(t.x + t.width for t in tiles) // PIXEL_STRIDE)
    total = torch.zeros(len(planes), len(prompts), *extent, device=bundle.device)
    weights = torch.zeros(extent, device=bundle.device)
    presence = torch.zeros(len(planes), len(prompts), device=bundle.device)
    boxes: list[list[list[tuple[float, ...]]]] = [[[] for _ in prompts] for _ in planes]
    embedding = None
    boxed = [i for i, p in enumerate(prompts) if is_boxed(p)]
    text = bundle.clip_text(tuple(p.text for p in prompts))
    clock.lap("scale")
    for tile in tiles:
        features = bundle.clip.encode_image(cut(batch, tile))
        embedding = features.embedding if len(tiles) == 1 else None
        clock.lap("encode")
        found = prompter.find(features, [prompts[i] for i in boxed], [pairs[i].box_threshold for i in boxed],
                              (tile.height, tile.width)) if boxed else [[] for _ in planes]
        found = [f[:MAX_BOXES] for f in found]
        clock.lap("detect")
        probability, there = _masks(bundle, features, text, found, boxed, pairs)
        presence = torch.maximum(presence, there)
        clock.lap("segment")
        weight = torch.from_numpy(tile_weight(tile)[::PIXEL_STRIDE, ::PIXEL_STRIDE]).to(bundle.device)
        y, x = tile.y // PIXEL_STRIDE, tile.x // PIXEL_STRIDE
        h, w = probability.shape[-2:]
        total[..., y:y + h, x:x + w] += probability * weight
        weights[y:y + h, x:x + w] += weight
        for s, items in enumerate(found):
            for item in items:
                x0, y0, x1, y1 = item.corners
                corners = ((y0 + tile.y) * factors[0], (x0 + tile.x) * factors[1],
                           (y1 + tile.y) * factors[0], (x1 + tile.x) * factors[1])
                boxes[s][boxed[item.prompt]].append((*corners, item.score))
        clock.lap("fuse")
    valid = total[..., :-(-size[0] // PIXEL_STRIDE), :-(-size[1] // PIXEL_STRIDE)]
    mean = valid / weights[:valid.shape[-2], :valid.shape[-1]].clamp(min=1e-6)
    full = F.interpolate(mean, shape, mode="bilinear", align_corners=False).cpu().numpy()
    clock.lap("fuse")
    share = {name: value / len(planes) for name, value in seconds.items()}
    return [
        FieldResult(full[s], presence[s].cpu().numpy(),
                    [[(b[0], b[1], min(b[2], shape[0]), min(b[3], shape[1]), b[4]) for b in group]
                     for group in boxes[s]], None if embedding is None else embedding[s], share)
        for s in range(len(planes))
    ]


def _masks(bundle: Bundle, features, text: Tensor, found, boxed: Sequence[int],
           pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Probabilities (S, P, h, w) and presence (S, P) of one tile of S slices."""
    sam = bundle.segmenter
    maps = sam.decode_pixels(features)
    slices, count = len(found), len(text)
    device = text.device
    # One batch of prompts: every text for every slice, then text and box for every box.
    extra = [(s, boxed[b.prompt], b.corners) for s, items in enumerate(found) for b in items
             if pairs[boxed[b.prompt]].text_weight < 1]
    view = torch.tensor([s for s in range(slices) for _ in range(count)] + [s for s, _, _ in extra], device=device)
    which = torch.tensor(list(range(count)) * slices + [p for _, p, _ in extra], device=device)
    nan = [float("nan")] * 4
    boxes = torch.tensor([nan] * (slices * count) + [list(c) for _, _, c in extra], device=device)
    predicted = sam.predict_masks(maps, MaskPrompts(view=view, text=text[which], boxes=boxes))
    probability = predicted.logits.sigmoid()
    by_text = probability[:slices * count].unflatten(0, (slices, count))
    presence = predicted.presence[:slices * count].sigmoid().unflatten(0, (slices, count))
    share = torch.tensor([p.text_weight if i in set(boxed) else 1.0 for i, p in enumerate(pairs)], device=device)
    by_box = torch.zeros_like(by_text) if (share < 1).any() else None
    if by_box is None:
        return by_text, presence
    for row, (s, p, _) in enumerate(extra):
        by_box[s, p] = torch.maximum(by_box[s, p], probability[slices * count + row])
    share = share.view(1, -1, 1, 1)
    return share * by_text + (1 - share) * by_box, presence


class _Clock:
    """Adds the time since the last lap to a stage."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now
