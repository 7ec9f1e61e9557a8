"""The MedCLIP-SAMv2 prompter (Koleilat et al., arXiv 2409.19483): what CLIP looks at for a text prompts SAM.

The saliency of a text is the information that passes a bottleneck in a late
layer (`m2ib`), averaged over the wordings of the target; its best components
become boxes, or points inside and outside.

A saliency map always has a highest place, whether or not the target is there,
and for nonsense too. So, unlike in the original, each region is asked again:
with its features alone, is the image nearer to the text than to those for
everything else that could be seen there? The answer is the score of the box,
and below a threshold the target is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.methods.base import Query, ViewBox, ViewPoint
from napari_claps.methods.medclip.late_layer import LateLayer, late_layer
from napari_claps.methods.medclip.m2ib import information_map, layer_statistics
from napari_claps.methods.medclip.options import MedClipOptions, default_options
from napari_claps.methods.medclip.points import MapPoint, PromptKind, region_points
from napari_claps.methods.medclip.regions import Region, find_regions
from napari_claps.methods.texts import other_targets, wordings
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.networks.clip import EncodedViews
from napari_claps.types import Modality, Prompt

MAP_STRIDE = 4
"""Pixels of the view per pixel of the map in which regions are found."""


class MedClipSamPrompter:
    """Boxes and points at what CLIP looks at.

    Parameters
    ----------
    bundle : Bundle
    options : mapping of Modality to MedClipOptions, optional
        The defaults are those of ``medclip_sam.toml``.
    seed : int
        Of the noise.
    """

    text_weight: float | None = 0.0

    def __init__(self, bundle: Bundle, options: Mapping[Modality, MedClipOptions] | None = None, *,
                 seed: int = 0) -> None:
        self._bundle = bundle
        self._seed = seed
        self.options = options or default_options()

    def find(self, features: EncodedViews, queries: Sequence[Query],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """See `Prompter.find`; the thresholds of the pairs are those of the detector and say nothing here.

        Raises
        ------
        BundleError
            If the layer or the embedding of a text holds values that are no numbers: no region would look like an
            honest "absent".
        """
        modality = queries[0].pair.modality
        found = []
        for view in range(len(features.views)):
            image = features.views[view].float().permute(1, 2, 0).cpu().numpy()
            layers: dict[int, LateLayer] = {}
            boxes = []
            for index, prompt in enumerate(query.prompt for query in queries):
                options = self.options[modality].of(prompt)
                level = options.bottleneck.layer
                if level not in layers:
                    layers[level] = late_layer(self._bundle, features, view, level)
                    self._bundle.check_finite(layers[level].features)
                saliency = upsampled(self.saliency(layers[level], prompt, modality), view_size).cpu().numpy()
                regions = find_regions(saliency, options.regions, image)
                scores = self.region_scores(layers[level], regions, prompt, modality)
                boxes += [view_box(region, index, score, view_size,
                                   region_points(saliency, region, regions, options.points), options.points.prompts)
                          for region, score in zip(regions, scores, strict=True) if score >= options.score]
            found.append(sorted(boxes, key=lambda box: -box.score))
        return found

    def texts(self, prompt: Prompt, modality: Modality) -> tuple[str, ...]:
        """The wordings over which the saliency is averaged."""
        return wordings(prompt, modality, self.options[modality].of(prompt).templates)

    def saliency(self, layer: LateLayer, prompt: Prompt, modality: Modality) -> Tensor:
        """Information (h, w) in nats per position of the layer, the mean over the wordings of the prompt."""
        settings = self.options[modality].of(prompt).bottleneck
        texts = self._bundle.clip_text(self.texts(prompt, modality))
        self._bundle.check_finite(texts)
        maps = [information_map(layer.features, layer.embed, text, settings, seed=self._seed + k)
                for k, text in enumerate(texts)]
        return layer.to_grid(torch.stack(maps).mean(0))

    @torch.inference_mode()
    def region_scores(self, layer: LateLayer, regions: Sequence[Region], prompt: Prompt,
                      modality: Modality) -> list[float]:
        """Score in [0, 1] of each region: how much better the prompt fits it than other targets do.

        Everything but the region's features is replaced by the layer's mean. The score is the logistic function of
        the cosine with the prompt less the mean cosine with the other targets of the modality, times CLIP's scale.
        """
        if not regions:
            return []
        clip_text = self._bundle.clip_text
        own = F.normalize(clip_text(wordings(prompt, modality)).mean(0), dim=0)
        others = clip_text(other_targets(prompt, modality))
        values = layer.features.float()
        mean, _ = layer_statistics(values)
        masks = torch.from_numpy(np.stack([region.mask for region in regions])).to(values)
        kept = [layer.from_grid(share) for share in F.interpolate(masks[:, None], layer.grid, mode="area")[:, 0]]
        with torch.autocast(values.device.type, enabled=False):
            embeddings = layer.embed(torch.stack([mean + (values - mean) * share for share in kept]))
        clip = self._bundle.require_clip("medclip-sam", "Use --method claps")
        margin = embeddings @ own - (embeddings @ others.T).mean(1)
        return torch.sigmoid(clip.scale * margin).tolist()


def upsampled(saliency: Tensor, view_size: tuple[int, int]) -> Tensor:
    """A map (h, w) of the layer as (H, W) over the view, at `MAP_STRIDE`."""
    size = (max(1, view_size[0] // MAP_STRIDE), max(1, view_size[1] // MAP_STRIDE))
    return F.interpolate(saliency[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]


def view_box(region: Region, prompt: int, score: float, view_size: tuple[int, int],
             points: Sequence[MapPoint] = (), prompts: PromptKind = PromptKind.BOXES) -> ViewBox:
    """The box and the points of a region in pixels of the view; a point is the middle of its pixel of the map."""
    y0, x0, y1, x1 = (float(MAP_STRIDE * v) for v in region.box)
    at = tuple(ViewPoint(MAP_STRIDE * (p.column + 0.5), MAP_STRIDE * (p.row + 0.5), p.inside) for p in points)
    return ViewBox((x0, y0, min(x1, view_size[1]), min(y1, view_size[0])), prompt, score, at,
                   points_alone=prompts is PromptKind.POINTS)
