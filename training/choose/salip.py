"""Choose the settings of the ``salip`` method per modality, on a few images of the held-out part of ``train``.

``python -m training.choose.salip --bundle claps-tiny --out salip.json``

The grid is coarse and the images are few: this finds the order of magnitude, not the last digit. A setting is as good
as the mean over targets of Dice where the target is, and of the share of right "absent" where it is not; both count
the same. Where nothing beats calling every target absent, the strictest setting wins and says just that. ``val`` is
never looked at. The winners stand in `napari_claps.methods.salip.prompter.DEFAULTS`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from napari_claps.inference.scales import working_side
from napari_claps.inference.single_scale import cut, scaled_batch
from napari_claps.inference.tile_prediction import box_window
from napari_claps.inference.tiles import plan_tiles
from napari_claps.methods.base import Query
from napari_claps.methods.salip.automatic_masks import propose_masks
from napari_claps.methods.salip.prompter import MAX_MASKS, SalipOptions, SalipPrompter, admitted, best_rows
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE, MaskPrompts
from napari_claps.models.networks.segmenter import MaskPrediction, PixelMaps, RetinalSam
from napari_claps.types import Modality
from napari_claps.words.vocabulary import TARGETS, Kind, make_prompt
from training.data.records import Record, read_mask, read_rgb, segmentation_records
from training.run.command import run_command

POINTS = (8, 16)
LEVELS = (0.0, -1.0, -2.0)
PREDICTED_IOU = (0.01, 0.05, 0.2, 0.5)
STABILITY = (0.05, 0.2, 0.5)
MIN_AREA = (0.0003, 0.001, 0.005)
TOP_K = (1, 2, 4, 8)
SCORES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
AS_GOOD = 0.005
"""Settings this near to the best are as good; of them the cheapest and strictest is taken."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Proposals of one image under one grid of points and one level.

    Parameters
    ----------
    masks : list of AutomaticMask
    scores : ndarray
        (M, P) for the targets.
    found : ndarray
        (M, P, h, w) bool, what SAM draws in the box of each, at the threshold of each target.
    truth : ndarray
        (P, h, w) bool.
    targets : tuple of str
    """

    masks: list
    scores: np.ndarray
    found: np.ndarray
    truth: np.ndarray
    targets: tuple[str, ...]

    def values(self, options: SalipOptions) -> Iterator[tuple[str, bool, float]]:
        """Target, whether it is there, and Dice or right absence."""
        rows = [i for i, mask in enumerate(self.masks) if admitted(mask, options)]
        for p, target in enumerate(self.targets):
            best = best_rows(self.scores[:, p], rows, options)
            drawn = self.found[best, p].any(0)
            total = np.count_nonzero(drawn) + np.count_nonzero(self.truth[p])
            present = bool(self.truth[p].any())
            yield target, present, 2 * np.count_nonzero(drawn & self.truth[p]) / total if present else float(not total)


class RememberedSam:
    """A mask head that answers the same points of one image only once: the levels ask for the same masks."""

    def __init__(self, sam: RetinalSam) -> None:
        self._sam = sam
        self._answers: dict[bytes, MaskPrediction] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sam, name)

    def predict_masks(self, maps: PixelMaps, prompts: MaskPrompts) -> MaskPrediction:
        key = prompts.points.numpy().tobytes()
        if key not in self._answers:
            self._answers[key] = self._sam.predict_masks(maps, prompts)
        return self._answers[key]


def varied_records(records: Sequence[Record], limit: int, asked: Callable[[Record], Sequence[str]]) -> list[Record]:
    """At most `limit` images of each data set that have what is asked, those first that show what none before did."""
    by_set: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if asked(record):
            by_set[record.dataset].append(record)
    chosen = []
    for left in by_set.values():
        shown: set[str] = set()
        for _ in range(min(limit, len(left))):
            best = max(left, key=lambda r: len(set(asked(r)) & set(r.masks) - shown))
            left.remove(best)
            shown |= set(best.masks)
            chosen.append(best)
    return chosen


def compact_targets(bundle: Bundle, record: Record) -> tuple[str, ...]:
    """Annotated targets with boxes that the bundle knows and that are looked for in a single view."""
    return tuple(t for t in record.targets
                 if TARGETS[t].kind is Kind.OBJECT and bundle.manifest.pair(record.modality, t))


@torch.inference_mode()
def candidates(bundle: Bundle, record: Record) -> dict[tuple[int, float], Candidates]:
    """Proposals for every grid and level; empty if the image needs tiles."""
    image = read_rgb(record.image)
    targets = compact_targets(bundle, record)
    side = working_side(record.modality, Kind.OBJECT, image.shape[:2])
    batch = scaled_batch([image.astype(np.float32) / 255], side, bundle.device)
    tiles = plan_tiles(tuple(batch.shape[-2:]))
    if len(tiles) > 1:
        return {}
    features = bundle.encode(cut(batch, tiles[0]))
    maps = bundle.segmenter.decode_pixels(features, record.modality)
    shape = tuple(maps.pixels.shape[-2:])
    truth = np.zeros((len(targets), *shape), bool)
    inner = tuple(n // PIXEL_STRIDE for n in batch.shape[-2:])
    for p, target in enumerate(targets):
        if target in record.masks:
            mask = torch.from_numpy(read_mask(record.masks[target], image.shape[:2])).float()[None, None]
            truth[p, :inner[0], :inner[1]] = torch.nn.functional.interpolate(mask, inner, mode="area")[0, 0] > 0.5
    queries = [Query(make_prompt(t, record.modality), p) for t in targets
               if (p := bundle.manifest.pair(record.modality, t))]
    thresholds = torch.tensor([query.pair.threshold for query in queries]).view(-1, 1, 1)
    prompter = SalipPrompter(bundle)
    sam = RememberedSam(bundle.segmenter)
    found = {}
    for points, level in product(POINTS, LEVELS):
        masks = propose_masks(sam, maps, 0, points_per_side=points, predicted_iou=min(PREDICTED_IOU),
                              stability=min(STABILITY), level=level, min_area=min(MIN_AREA), limit=MAX_MASKS)
        drawn = np.zeros((0, len(targets), *shape), bool)
        if masks:
            boxes = torch.tensor([m.box for m in masks], dtype=torch.float32) * PIXEL_STRIDE
            logits = bundle.segmenter.predict_masks(
                maps, MaskPrompts(torch.zeros(len(masks), dtype=torch.int64), boxes=boxes)).logits
            drawn = (logits.sigmoid()[:, None] >= thresholds).numpy() & windows(boxes, shape)[:, None]
        scores = prompter.score(features.image[0], masks, queries).numpy()
        found[points, level] = Candidates(masks, scores, drawn, truth, targets)
    return found


def windows(boxes: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """(M, h, w) bool, where the mask of each box is kept."""
    kept = np.zeros((len(boxes), *shape), bool)
    for mask, box in zip(kept, boxes.tolist(), strict=True):
        mask[box_window(box)] = True
    return kept


def grid() -> Iterator[SalipOptions]:
    """Every combination."""
    for points, level, iou, stability, area, top_k, score in product(
            POINTS, LEVELS, PREDICTED_IOU, STABILITY, MIN_AREA, TOP_K, SCORES):
        yield replace(SalipOptions(), points_per_side=points, level=level, predicted_iou=iou, stability=stability,
                      min_area=area, top_k=top_k, score=score)


def quality(images: list[dict[tuple[int, float], Candidates]], options: SalipOptions) -> tuple[float, float]:
    """Mean over targets of Dice where it is and of right absence where it is not; and mean Dice where it is."""
    values: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for image in images:
        for target, present, value in image[options.points_per_side, options.level].values(options):
            values[target, present].append(value)
    targets = {t for t, _ in values}
    both = np.mean([np.mean([np.mean(v) for (t, _), v in values.items() if t == target]) for target in targets])
    return float(both), float(np.mean([np.mean(v) for (_, present), v in values.items() if present]))


def choose(images: list[dict[tuple[int, float], Candidates]]) -> tuple[SalipOptions, float, float]:
    """The setting that is best, or as good, cheaper and stricter, with its two values of `quality`."""
    table = [(options, *quality(images, options)) for options in grid()]
    best = max(value for _, value, _ in table)
    near = [row for row in table if row[1] >= best - AS_GOOD]
    return min(near, key=lambda row: (row[0].points_per_side, row[0].top_k, -row[0].score, -row[0].min_area,
                                      -row[0].predicted_iou, -row[0].stability))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny")
    parser.add_argument("--limit", type=int, default=3, help="images of each data set, at most")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    bundle = load_bundle(a.bundle, device="cpu")
    begin = time.process_time()
    by_modality: dict[Modality, list] = defaultdict(list)
    records = varied_records(segmentation_records("train", held_out=True), a.limit,
                             lambda record: compact_targets(bundle, record))
    for record in tqdm(records, desc="held-out images", mininterval=10):
        if found := candidates(bundle, record):
            by_modality[record.modality].append(found)
    result = {}
    for modality, images in by_modality.items():
        options, value, dice = choose(images)
        result[str(modality)] = {**asdict(options), "n_images": len(images), "quality": round(value, 4),
                                 "dice": round(dice, 4)}
        tqdm.write(f"{modality}: {result[str(modality)]}")
    tqdm.write(f"{time.process_time() - begin:.0f} s of CPU time")
    a.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main))
