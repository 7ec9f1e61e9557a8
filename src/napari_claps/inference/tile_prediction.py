"""What the heads say of one tile of an image: boxes from words, masks from boxes and words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_claps.inference.stage_clock import StageClock
from napari_claps.methods.base import Prompter, Query, ViewBox
from napari_claps.methods.sam_prompts import ask_masks
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE
from napari_claps.models.networks.pixel_decoder import PixelMaps
from napari_claps.types import Prompt
from napari_claps.words.vocabulary import kind_of

MAX_BOXES = 48
"""Boxes per view that are passed on to the mask decoder, best first."""

BOX_MARGIN = 0.1
"""How far the mask of a box without words may stick out, as a share of the box."""

POINT_MARGIN = 1.0
"""The same where SAM gets points and no box: it draws the whole object, and only part of it may have been found."""


def is_boxed(prompt: Prompt, bundle: Bundle) -> bool:
    """Whether boxes are looked for: a box is a bad prompt for a tree or a band, but some mask heads know no other."""
    return not kind_of(prompt.target).is_whole or not bundle.takes_text


@dataclass(frozen=True, eq=False)
class TilePrediction:
    """What was found in a tile of S slices.

    Parameters
    ----------
    masks : Tensor
        (S, P, h / 2, w / 2) probabilities.
    presence : Tensor
        (S, P) in [0, 1].
    boxes : list of list of ViewBox
        Of each slice, in pixels of the tile.
    """

    masks: Tensor
    presence: Tensor
    boxes: list[list[ViewBox]]


class TilePredictor:
    """What is looked for in every tile of an image.

    Parameters
    ----------
    bundle : Bundle
    prompter : Prompter
    queries : sequence of Query
        What to find.
    """

    def __init__(self, bundle: Bundle, prompter: Prompter, queries: Sequence[Query]) -> None:
        self._bundle, self._prompter, self._queries = bundle, prompter, queries
        self._boxed = [i for i, query in enumerate(queries) if is_boxed(query.prompt, bundle)]
        # How much the mask of the text alone counts; the rest is the masks of the boxes. A prompter may set one weight
        # for all; without one (None), each pair has its own. Targets without boxes have no choice.
        chosen = [query.pair.text_weight if prompter.text_weight is None else prompter.text_weight for query in queries]
        self._text_shares = [weight if i in self._boxed else 1.0 for i, weight in enumerate(chosen)]
        self._text = bundle.clip_text(tuple(query.prompt.text for query in queries)) if bundle.takes_text else None

    def predict(self, views: Tensor, clock: StageClock, *, all_boxes: bool) -> TilePrediction:
        """Ask the heads.

        Parameters
        ----------
        views : Tensor
            (S, 3, h, w) the tile in each slice, in [0, 1].
        clock : StageClock
        all_boxes : bool
            False looks for boxes only where they make a part of the mask.

        Raises
        ------
        BundleError
            If a network gives values that are no numbers.
        """
        asked = [i for i in self._boxed if all_boxes or self._text_shares[i] < 1]
        modality = self._queries[0].pair.modality
        with self._bundle.precision():
            features = self._bundle.encode(views, masks_of="" if asked else modality)
        clock.lap("encode")
        with self._bundle.precision():
            found = self._prompter.find(features, [self._queries[i] for i in asked],
                                        (views.shape[-2], views.shape[-1])) if asked else [[] for _ in views]
            boxes = [[replace(b, prompt=asked[b.prompt]) for b in items[:MAX_BOXES]] for items in found]
            clock.lap("detect")
            maps = self._bundle.require_segmenter().decode_pixels(features, modality)
            masks, presence = self._masks(maps, boxes)
        self._bundle.check_finite(*features.levels[-1:], masks, presence)
        clock.lap("segment")
        return TilePrediction(masks, presence, boxes)

    def _masks(self, maps: PixelMaps, found: Sequence[Sequence[ViewBox]]) -> tuple[Tensor, Tensor]:
        """Probabilities (S, P, h / 2, w / 2) and presence (S, P).

        If the mask head takes no text only boxes count. Boxes go with the words of their prompt unless the prompter
        gives them a weight: then they alone say what is there, or every method would give the mask of the words.
        """
        text = self._text
        slices, count = len(found), len(self._queries)
        worded = self._prompter.text_weight is None
        device = maps.pixels.device
        text_shares = self._text_shares if text is not None else [0.0] * count
        shares = torch.tensor(text_shares, device=device)
        # One batch of prompts: every text for every slice, then text and box for every box.
        alone = [(s, p) for s in range(slices) for p in range(count)] if text is not None else []
        extra = [(s, b.prompt, b) for s, items in enumerate(found) for b in items
                 if text_shares[b.prompt] < 1]
        by_text = torch.zeros(slices, count, *maps.pixels.shape[-2:], device=device)
        by_box = torch.zeros_like(by_text) if min(text_shares) < 1 else None
        presence = torch.zeros(slices, count, device=device)
        if alone or extra:
            which = torch.tensor([p for _, p in alone] + [p for _, p, _ in extra], device=device)
            views = torch.tensor([s for s, _ in alone] + [s for s, _, _ in extra], device=device)
            predicted = ask_masks(
                self._bundle.require_segmenter(), maps, views,
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
                assert by_box is not None, "a box is only asked where it makes a part of the mask"
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
