"""What the settings of the method medclip-sam are worth on one image: Dice of SAM's masks, and scores, per setting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from napari_claps.inference.scales import working_side
from napari_claps.inference.single_scale import cut, scaled_batch
from napari_claps.inference.tile_prediction import is_boxed, mask_window
from napari_claps.inference.tiles import Tile, plan_tiles
from napari_claps.methods.base import ViewBox
from napari_claps.methods.medclip.late_layer import late_layer
from napari_claps.methods.medclip.m2ib import Bottleneck
from napari_claps.methods.medclip.options import MedClipOptions
from napari_claps.methods.medclip.points import PointRule, PromptKind, region_points
from napari_claps.methods.medclip.prompter import MedClipSamPrompter, upsampled, view_box
from napari_claps.methods.medclip.regions import Cut, RegionRule, find_regions
from napari_claps.methods.sam_prompts import ask_masks
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.networks.clip import ImageFeatures
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE
from napari_claps.types import Modality, Prompt
from napari_claps.words.vocabulary import Kind, kind_of, make_prompt
from training.choose.scoring import dice
from training.data.records import Record, read_mask, read_rgb

BOTTLENECKS = {Kind.OBJECT: ((3, 1.0, 1.0), (3, 2.0, 1.0), (4, 1.0, 1.0), (4, 1.0, 0.3)),
               Kind.LESION: ((3, 1.0, 1.0), (4, 1.0, 1.0))}
"""Layer, beta and variance; a run at layer 3 costs as much as five at layer 4."""

CUTS = ((Cut.KMEANS, 0.3), (Cut.CRF, 0.3), (Cut.THRESHOLD, 0.3), (Cut.THRESHOLD, 0.5))

COMPONENTS = {Kind.OBJECT: (1, 2, 4), Kind.LESION: (4, 12)}

POINTS = (PointRule(), PointRule(PromptKind.POINTS, 1, 0), PointRule(PromptKind.POINTS, 3, 3),
          PointRule(PromptKind.BOTH, 1, 0), PointRule(PromptKind.BOTH, 3, 3))

NONSENSE_TEXT = "purple elephant dancing in the rain"

PROMPTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class View:
    """One view of an image: its features, height and width, and the truth (h / 2, w / 2) bool, if anything is there."""

    features: ImageFeatures
    size: tuple[int, int]
    truth: np.ndarray | None


def boxed_targets(bundle: Bundle, record: Record) -> list[str]:
    """Targets annotated in the image that get boxes and that the bundle knows."""
    return [t for t in record.targets if bundle.manifest.pair(record.modality, t)
            and is_boxed(make_prompt(t, record.modality), bundle)]


def settings_of(kind: Kind) -> Iterator[tuple[RegionRule, PointRule]]:
    """Everything that is tried with one saliency map."""
    for (cut_by, threshold), components, points in product(CUTS, COMPONENTS[kind], POINTS):
        yield RegionRule(cut_by, threshold, components), points


def telling_tiles(truth: np.ndarray, tiles: Sequence[Tile]) -> list[Tile]:
    """The tile that shows most of the truth (y, x), and the one nearest to the middle that shows nothing of it."""
    shown = [np.count_nonzero(truth[t.y:t.y + t.height, t.x:t.x + t.width]) for t in tiles]
    middle = np.array(truth.shape) / 2
    empty = [t for t, n in zip(tiles, shown, strict=True) if not n]
    empty.sort(key=lambda t: np.hypot(*(np.array([t.y + t.height / 2, t.x + t.width / 2]) - middle)))
    return ([tiles[int(np.argmax(shown))]] if any(shown) else []) + empty[:1]


@torch.inference_mode()
def views_of(bundle: Bundle, record: Record, target: str) -> list[View]:
    """The views of an image in which a target is tried: the only one, or two tiles."""
    image = read_rgb(record.image)
    shape = image.shape[:2]
    batch = scaled_batch([image.astype(np.float32) / 255], working_side(record.modality, kind_of(target), shape),
                         bundle.device)
    size = tuple(batch.shape[-2:])
    mask = read_mask(record.masks[target], shape) if target in record.masks else np.zeros(shape, bool)
    truth = F.interpolate(torch.from_numpy(mask).float()[None, None], size, mode="area")
    views = []
    for tile in telling_tiles(truth[0, 0].numpy() > 0.5, plan_tiles(size)):
        inner = F.avg_pool2d(cut(F.pad(truth, (0, tile.width, 0, tile.height)), tile), PIXEL_STRIDE)[0, 0].numpy() > 0.5
        views.append(View(bundle.encode(cut(batch, tile)), (tile.height, tile.width), inner if inner.any() else None))
    return views


def measure(bundle: Bundle, record: Record, *, nonsense: bool) -> list[dict[str, Any]]:
    """Rows of one image: per target (and for nonsense text), view and setting the Dice of the mask and the best score.

    The score threshold is not applied; where nothing is there, there is no Dice.
    """
    rows = []
    for target in (*boxed_targets(bundle, record), *([NONSENSE_TEXT] if nonsense else [])):
        prompt = make_prompt(target, record.modality)
        for number, view in enumerate(views_of(bundle, record, target)):
            about = {"modality": str(record.modality), "dataset": record.dataset, "image": record.stem, "view": number,
                     "target": target, "kind": str(kind_of(target)), "present": view.truth is not None}
            tried = BOTTLENECKS[kind_of(target)]
            for layer, beta, variance in tried:
                if target == NONSENSE_TEXT and (layer, beta, variance) not in (tried[0], tried[-1]):
                    continue  # asked for the score only, which hardly depends on beta and variance
                bottleneck = {"layer": layer, "beta": beta, "variance": variance}
                rows += [about | bottleneck | row for row in
                         measure_view(bundle, view, prompt, record.modality, Bottleneck(**bottleneck))]
    return rows


@torch.inference_mode()
def measure_view(bundle: Bundle, view: View, prompt: Prompt, modality: Modality,
                 bottleneck: Bottleneck) -> list[dict[str, Any]]:
    """Rows of one view and one saliency map."""
    prompter = MedClipSamPrompter(bundle, options={modality: MedClipOptions(bottleneck)})
    layer = late_layer(bundle, view.features, 0, bottleneck.layer)
    saliency = upsampled(prompter.saliency(layer, prompt, modality), view.size).numpy()
    image = view.features.views[0].permute(1, 2, 0).numpy()
    kind = kind_of(prompt.label)
    tried = []
    for rule, points in settings_of(kind):
        if points == POINTS[0]:
            regions = find_regions(saliency, rule, image)
            scores = prompter.region_scores(layer, regions, prompt, modality)
        found = [view_box(r, 0, 0.0, view.size, region_points(saliency, r, regions, points), points.prompts)
                 for r in regions]
        tried.append((rule, points, found, max(scores, default=0.0)))
    pair = bundle.manifest.pair(modality, prompt.target)
    masks = {} if view.truth is None or pair is None else masks_of(
        bundle, view, modality, list(dict.fromkeys(box for _, _, found, _ in tried for box in found)), pair.threshold)
    return [asdict(rule) | asdict(points) | {
        "score": score, "dice": None if view.truth is None else union_dice([masks[b] for b in found], view.truth),
    } for rule, points, found, score in tried]


def masks_of(bundle: Bundle, view: View, modality: Modality, boxes: Sequence[ViewBox],
             threshold: float) -> dict[ViewBox, np.ndarray]:
    """The mask (h / 2, w / 2) bool that counts for each box, drawn by SAM without words."""
    maps = bundle.segmenter.decode_pixels(view.features, modality)
    masks = {}
    for start in range(0, len(boxes), PROMPTS_AT_ONCE):
        part = boxes[start:start + PROMPTS_AT_ONCE]
        drawn = ask_masks(bundle.segmenter, maps, torch.zeros(len(part), dtype=torch.int64), None, part)
        for box, probability in zip(part, drawn.logits.sigmoid().numpy(), strict=True):
            window = mask_window(box)
            masks[box] = np.zeros(probability.shape, bool)
            masks[box][window] = probability[window] >= threshold
    return masks


def union_dice(masks: Sequence[np.ndarray], truth: np.ndarray) -> float:
    """Dice of the union of masks with the truth, which is not empty."""
    return dice(np.any(masks, axis=0) if masks else np.zeros_like(truth), truth, None)
