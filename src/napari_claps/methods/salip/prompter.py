"""The SaLIP prompter: SAM proposes, CLIP chooses (Aleem et al., arXiv 2404.06362).

SAM's automatic masks of a view, filtered by area, are cut out with their
outside blanked; CLIP compares each cut-out with the words for the target and,
unlike the original, with those for everything else that could be seen there.
The score is thus a probability among alternatives, and a target that wins no
cut-out is absent. The boxes of the best ones prompt SAM, without text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.methods.base import Query, ViewBox
from napari_claps.methods.salip.automatic_masks import AutomaticMask, propose_masks
from napari_claps.methods.texts import wordings
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.networks.clip import EncodedViews
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE
from napari_claps.types import Modality, Prompt
from napari_claps.words.vocabulary import MODALITIES, MODALITY_TEMPLATES, Kind, kind_of, make_prompt

CUT_OUT = 96
"""Side of a cut-out in pixels; at twice that, CLIP takes every cut-out for vessels or retina."""

MAX_MASKS = 64
"""Proposals of a view that CLIP looks at, best first."""

CUT_OUTS_PER_BATCH = 32


@dataclass(frozen=True)
class SalipOptions:
    """What decides which proposals are made and taken.

    Parameters
    ----------
    points_per_side : int
        Points along the long side of a view.
    predicted_iou, stability : float
        Lowest values of a proposal, above 0.
    level : float
        Logit at which SAM's masks are cut.
    min_area, max_area : float
        Bounds of a proposal, as shares of the view.
    top_k : int
        Proposals taken for each target, best first.
    score : float
        Lowest score that is taken, in [0, 1]; below it the target is absent.
    """

    points_per_side: int = 8
    predicted_iou: float = 0.5
    stability: float = 0.5
    level: float = 0.0
    min_area: float = 0.005
    max_area: float = 0.6
    top_k: int = 1
    score: float = 0.3


DEFAULTS: Mapping[Modality, SalipOptions] = MappingProxyType({
    **dict.fromkeys(Modality, SalipOptions(score=0.1)),
    Modality.FFA: SalipOptions(predicted_iou=0.2, top_k=2, score=0.1),
    Modality.OCT: SalipOptions(points_per_side=16, predicted_iou=0.2, stability=0.05, min_area=0.001, top_k=2,
                               score=0.25),
})
"""Chosen by ``training/choose/salip.py`` with claps-tiny 0.5.0 on held-out images of ``train``: 6 fundus photographs
(IDRiD and Drishti-GS; they stand in for modalities without data), 2 angiograms and 3 B-scans. Dice there: 0.86, 0.58,
0.25."""


class SalipPrompter:
    """Boxes of those automatic masks of SAM that CLIP takes for the target.

    Parameters
    ----------
    bundle : Bundle
    options : mapping of Modality to SalipOptions
    """

    text_weight: float | None = 0.0

    def __init__(self, bundle: Bundle, options: Mapping[Modality, SalipOptions] = DEFAULTS, *,
                 seed: int = 0) -> None:  # it draws no random numbers
        self._bundle = bundle
        self.options = options

    @torch.inference_mode()
    def find(self, features: EncodedViews, queries: Sequence[Query],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """See `Prompter.find`; the proposals of a view are made once, for all prompts.

        Raises
        ------
        BundleError
            If the maps of the mask head or the embeddings hold values that are no numbers: no proposal would look like
            an honest "absent".
        """
        modality = queries[0].pair.modality
        options = self.options[modality]
        wanted = [options_for(query.prompt, options) for query in queries]
        sam = self._bundle.require_segmenter()
        maps = sam.decode_pixels(features, modality)
        self._bundle.check_finite(maps.embedding, maps.pixels)
        found = []
        for view in range(len(features.image)):
            masks = propose_masks(
                sam, maps, view, points_per_side=options.points_per_side,
                predicted_iou=options.predicted_iou, stability=options.stability, level=options.level,
                min_area=min(o.min_area for o in wanted), max_area=options.max_area, limit=MAX_MASKS)
            scores = self.score(features.image[view], masks, queries)
            boxes = []
            for index, (column, own) in enumerate(zip(scores.T.numpy(), wanted, strict=True)):
                rows = [i for i, mask in enumerate(masks) if admitted(mask, own)]
                boxes += [_view_box(masks[i], index, float(column[i])) for i in best_rows(column, rows, own)]
            found.append(sorted(boxes, key=lambda b: -b.score))
        return found

    @torch.inference_mode()
    def score(self, image: Tensor, masks: Sequence[AutomaticMask], queries: Sequence[Query]) -> Tensor:
        """Probability (M, P) that each mask shows each prompt rather than anything else of its modality.

        Parameters
        ----------
        image : Tensor
            (3, H, W) normalised view, as in `ImageFeatures`.
        masks : sequence of AutomaticMask
        queries : sequence of Query
            As for `find`.
        """
        clip = self._bundle.require_clip("salip", "Use --method claps")
        if not masks:
            return torch.zeros(0, len(queries))
        cut_outs = torch.stack([cut_out(image, m) for m in masks]) * clip.std + clip.mean
        encoded = []
        for part in cut_outs.split(CUT_OUTS_PER_BATCH):
            embedding = clip.encode_image(part).embedding
            assert embedding is not None, "the image encoder has run"
            encoded.append(embedding)
        embeddings = torch.cat(encoded)
        self._bundle.check_finite(embeddings)
        columns = []
        for query in queries:
            prompt, modality = query.prompt, query.pair.modality
            texts = torch.stack([self._mean_text(wordings(prompt, modality)), *self._alternatives(prompt, modality)])
            self._bundle.check_finite(texts)
            columns.append((clip.scale * embeddings @ texts.T).softmax(1)[:, 0])
        return torch.stack(columns, 1).cpu()

    def _alternatives(self, prompt: Prompt, modality: Modality) -> list[Tensor]:
        """Text embeddings of the other targets of the modality, and of the modality alone."""
        others = [t for t in self._bundle.manifest.targets(modality) if t != prompt.target]
        texts = [wordings(make_prompt(t, modality), modality) for t in others]
        texts.append(tuple(t.format(signature=MODALITIES[modality].signature) for t in MODALITY_TEMPLATES))
        return [self._mean_text(t) for t in texts]

    def _mean_text(self, texts: tuple[str, ...]) -> Tensor:
        return F.normalize(self._bundle.clip_text(texts).mean(0), dim=0)


def options_for(prompt: Prompt, options: SalipOptions) -> SalipOptions:
    """Options of a prompt: lesions are small and many, whatever was chosen for single objects."""
    if kind_of(prompt.target) is not Kind.LESION:
        return options
    return replace(options, min_area=0.0, top_k=MAX_MASKS)


def admitted(mask: AutomaticMask, options: SalipOptions) -> bool:
    """Whether a proposal passes the bounds of quality and area."""
    return (mask.predicted_iou > options.predicted_iou and mask.stability >= options.stability
            and options.min_area <= mask.area <= options.max_area)


def best_rows(scores: np.ndarray, rows: Sequence[int], options: SalipOptions) -> list[int]:
    """Those of `rows` whose score (M,) is high enough, best first, at most `top_k`; NaN is never high enough."""
    good = [i for i in rows if scores[i] >= options.score]
    return sorted(good, key=lambda i: -scores[i])[:options.top_k]


def cut_out(image: Tensor, mask: AutomaticMask, side: int = CUT_OUT) -> Tensor:
    """Cut the square around a mask out of a view; what is outside the mask or the view is blank.

    Parameters
    ----------
    image : Tensor
        (3, H, W), normalised: 0, the mean of CLIP's training images, is blank.
    mask : AutomaticMask
    side : int
        Height and width of the result.

    Returns
    -------
    Tensor
        (3, side, side)
    """
    x0, y0, x1, y1 = (PIXEL_STRIDE * v for v in mask.box)
    inside = torch.from_numpy(mask.mask).to(image.device, image.dtype)
    inside = inside.repeat_interleave(PIXEL_STRIDE, 0).repeat_interleave(PIXEL_STRIDE, 1)
    object_ = image[:, y0:y1, x0:x1] * inside
    height, width = object_.shape[-2:]
    top, left = ((max(height, width) - n) // 2 for n in (height, width))
    square = F.pad(object_, (left, max(height, width) - width - left, top, max(height, width) - height - top))
    return F.interpolate(square[None], (side, side), mode="bilinear", align_corners=False, antialias=True)[0]


def _view_box(mask: AutomaticMask, prompt: int, score: float) -> ViewBox:
    x0, y0, x1, y1 = (float(PIXEL_STRIDE * v) for v in mask.box)
    return ViewBox((x0, y0, x1, y1), prompt, score)
