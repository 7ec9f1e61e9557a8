"""One image at one working scale: its tiles go through the encoder, all heads read the result.

Where the bundle was made for it, the image is also looked at mirrored, and the masks are the mean: networks that were
trained with flips still answer a little differently, and errors of one look are rarely those of another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.artery_vein import vote_in_fields
from napari_claps.models.bundle import Bundle
from napari_claps.models.clip import ImageFeatures
from napari_claps.models.manifest import Pair
from napari_claps.models.mask_prompts import PIXEL_STRIDE
from napari_claps.models.pixel_decoder import PixelMaps
from napari_claps.prompters import Prompter, ViewBox
from napari_claps.prompters.sam_prompts import ask_masks
from napari_claps.tile_mean import TileMean, resized
from napari_claps.types import Modality, Prompt
from napari_claps.views import Tile, mirrorings, plan_tiles, scaled_shape
from napari_claps.vocabulary import TARGETS, Kind

MAX_BOXES = 48
"""Boxes per view that are passed on to the mask decoder, best first."""

BOX_MARGIN = 0.1
"""How far the mask of a box without words may stick out, as a share of the box."""

POINT_MARGIN = 1.0
"""The same where SAM gets points and no box: it draws the whole object, and only part of it may have been found."""


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
    """

    probability: np.ndarray
    presence: np.ndarray
    boxes: list[list[tuple[float, float, float, float, float]]]
    seconds: dict[str, float] = field(default_factory=dict)


def is_boxed(prompt: Prompt, bundle: Bundle) -> bool:
    """Whether boxes are looked for: a box is a bad prompt for a tree or a band, but some mask heads know no other."""
    compact = prompt.target is None or TARGETS[prompt.target].kind in (Kind.OBJECT, Kind.LESION)
    return compact or not bundle.takes_text


def looks(bundle: Bundle, modality: Modality) -> tuple[tuple[int, ...], ...]:
    """How an image is flipped for each look that the bundle asks for in a modality (axes of (y, x))."""
    return mirrorings(modality) if modality in bundle.manifest.mirrored else ((),)


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
    """CLIP embeddings (S, D) of whole planes as one view each, for the modality.

    Raises
    ------
    BundleError
        If the bundle has no CLIP.
    """
    bundle.require("clip", "naming the modality")
    batch = scaled_batch(planes, side, bundle.device)
    height, width = batch.shape[-2:]
    whole = Tile(0, 0, -(-height // 32) * 32, -(-width // 32) * 32)
    with bundle.precision():
        embedding = bundle.encode(cut(batch, whole)).embedding.float()
    bundle.check_finite(embedding)
    return embedding


@torch.inference_mode()
def segment_field(bundle: Bundle, prompter: Prompter, planes: Sequence[np.ndarray], side: int,
                  prompts: Sequence[Prompt], pairs: Sequence[Pair], *, mirrored: bool = True) -> list[FieldResult]:
    """Find prompts in slices of one shape, at one scale.

    Parameters
    ----------
    planes : sequence of ndarray
        (y, x, 3) float32 in [0, 1], all of one shape.
    side : int
        Long side of the working scale in pixels.
    prompts, pairs
        What to find, and the thresholds of each.
    mirrored : bool
        Where the bundle asks for it, take the mean of masks and presence over the `mirrorings` of the modality; boxes
        are those of the image as it is. False looks once.

    Returns
    -------
    list of FieldResult
        One for each plane.

    Raises
    ------
    BundleError
        If a network gives values that are no numbers.
    """
    seconds = dict.fromkeys(("scale", "encode", "detect", "segment", "fuse"), 0.0)
    clock = _Clock(seconds, bundle.device)
    shape = planes[0].shape[:2]
    batch = scaled_batch(planes, side, bundle.device)
    size = (batch.shape[-2], batch.shape[-1])
    factors = (shape[0] / size[0], shape[1] / size[1])
    # Masks have half the resolution: mirrored, those of an odd side would lie between the pixels of the others.
    batch = F.pad(batch, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    tiles = plan_tiles((batch.shape[-2], batch.shape[-1]))
    boxes: list[list[list[tuple[float, ...]]]] = [[[] for _ in prompts] for _ in planes]
    boxed = [i for i, p in enumerate(prompts) if is_boxed(p, bundle)]
    text_shares = _text_shares(prompter, boxed, pairs)
    text = bundle.clip_text(tuple(p.text for p in prompts)) if bundle.takes_text else None
    clock.lap("scale")
    masks, presences = [], []
    for axes in looks(bundle, pairs[0].modality) if mirrored else ((),):
        dims = [axis - 2 for axis in axes]
        view = batch.flip(dims)
        # In further looks boxes are needed only where they make a part of the mask.
        asked = [i for i in boxed if text_shares[i] < 1] if axes else boxed
        fused = TileMean(size, tiles, slices=len(planes), prompts=len(prompts), device=bundle.device)
        presence = torch.zeros(len(planes), len(prompts), device=bundle.device)
        for tile in tiles:
            with bundle.precision():
                features = bundle.encode(cut(view, tile))
            clock.lap("encode")
            with bundle.precision():
                found = prompter.find(features, [prompts[i] for i in asked], [pairs[i] for i in asked],
                                      (tile.height, tile.width)) if asked else [[] for _ in planes]
                found = [f[:MAX_BOXES] for f in found]
                clock.lap("detect")
                maps = bundle.segmenter.decode_pixels(features, pairs[0].modality)
                probability, there = _masks(bundle, features, maps, text, found, asked, text_shares,
                                            worded=prompter.text_weight is None)
            bundle.check_finite(*features.levels[-1:], probability, there)
            presence = torch.maximum(presence, there)
            clock.lap("segment")
            fused.add(tile, probability)
            for s, items in enumerate(() if axes else found):
                for item in items:
                    x0, y0, x1, y1 = item.corners
                    corners = ((y0 + tile.y) * factors[0], (x0 + tile.x) * factors[1],
                               (y1 + tile.y) * factors[0], (x1 + tile.x) * factors[1])
                    boxes[s][boxed[item.prompt]].append((*corners, item.score))
            clock.lap("fuse")
        mask = fused.mean()
        vote_in_fields(mask, [p.target for p in prompts])
        masks.append(mask.flip(dims))
        presences.append(presence)
    mean, presence = (torch.stack(each).mean(0) for each in (masks, presences))
    full = resized(mean, size, shape).cpu().numpy()
    clock.lap("fuse")
    share = {name: value / len(planes) for name, value in seconds.items()}
    return [
        FieldResult(full[s], presence[s].cpu().numpy(),
                    [[(b[0], b[1], min(b[2], shape[0]), min(b[3], shape[1]), b[4]) for b in group]
                     for group in boxes[s]], share)
        for s in range(len(planes))
    ]


def _text_shares(prompter: Prompter, boxed: Sequence[int], pairs: Sequence[Pair]) -> list[float]:
    """Return per prompt how much the mask of the text alone counts; the rest is the masks of the boxes.

    A prompter may set one weight for all; without one (None), each pair has its own. Targets without boxes have no
    choice.
    """
    chosen = [p.text_weight if prompter.text_weight is None else prompter.text_weight for p in pairs]
    return [weight if i in set(boxed) else 1.0 for i, weight in enumerate(chosen)]


def _masks(bundle: Bundle, features: ImageFeatures, maps: PixelMaps, text: Tensor | None,
           found: Sequence[Sequence[ViewBox]], boxed: Sequence[int], text_shares: Sequence[float], *,
           worded: bool) -> tuple[Tensor, Tensor]:
    """Probabilities (S, P, h, w) and presence (S, P) of one tile of S slices.

    Without `text` only boxes count. Boxes go with the words of their prompt if `worded`; if not, they alone say what is
    there, or every method would give the mask of the words.
    """
    sam = bundle.segmenter
    slices, count = len(found), len(text_shares)
    device = features.views.device
    text_shares = text_shares if text is not None else [0.0] * count
    shares = torch.tensor(text_shares, device=device)
    # One batch of prompts: every text for every slice, then text and box for every box.
    alone = [(s, p) for s in range(slices) for p in range(count)] if text is not None else []
    extra = [(s, boxed[b.prompt], b) for s, items in enumerate(found) for b in items
             if text_shares[boxed[b.prompt]] < 1]
    by_text = features.views.new_zeros(slices, count, *maps.pixels.shape[-2:])
    by_box = torch.zeros_like(by_text) if min(text_shares) < 1 else None
    presence = features.views.new_zeros(slices, count)
    if alone or extra:
        which = torch.tensor([p for _, p in alone] + [p for _, p, _ in extra], device=device)
        predicted = ask_masks(
            sam, maps, torch.tensor([s for s, _ in alone] + [s for s, _, _ in extra], device=device),
            None if text is None else text[which] if worded else torch.cat(
                [text[which[:len(alone)]], text.new_full((len(extra), text.shape[1]), float("nan"))]),
            [None] * len(alone) + [b for _, _, b in extra])
        probability = predicted.logits.float().sigmoid()
        if alone:
            by_text = probability[:len(alone)].unflatten(0, (slices, count))
            presence = predicted.presence[:len(alone)].float().sigmoid().unflatten(0, (slices, count))
            presence = presence if worded else presence * (shares > 0)
        for row, (s, p, box) in enumerate(extra, start=len(alone)):
            window = (...,) if worded else mask_window(box)
            by_box[s, p][window] = torch.maximum(by_box[s, p][window], probability[row][window])
            if not (alone and worded):  # without text there is no other score for the presence
                presence[s, p] = presence[s, p].clamp(min=box.score)
    if by_box is None:
        return by_text, presence
    share = shares.view(1, -1, 1, 1)
    return share * by_text + (1 - share) * by_box, presence


def mask_window(box: ViewBox) -> tuple[slice, slice]:
    """Rows and columns of the mask head in which the mask of a box or of its points counts, if it has no words."""
    return box_window(box.corners, POINT_MARGIN if box.points_alone else BOX_MARGIN)


def box_window(corners: Sequence[float], margin: float = BOX_MARGIN) -> tuple[slice, slice]:
    """Rows and columns of the mask head in a box (x0, y0, x1, y1 in pixels of the view) grown by a share of itself.

    What SAM draws elsewhere is another object.
    """
    x0, y0, x1, y1 = (v / PIXEL_STRIDE for v in corners)
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    return slice(max(0, int(y0 - dy)), math.ceil(y1 + dy)), slice(max(0, int(x0 - dx)), math.ceil(x1 + dx))


class _Clock:
    """Adds the time since the last lap to a stage; a GPU is waited for, or its work would count for a later stage."""

    def __init__(self, seconds: dict[str, float], device: str) -> None:
        self._seconds = seconds
        self._device = device
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        if self._device != "cpu":
            getattr(torch, self._device).synchronize()
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now
