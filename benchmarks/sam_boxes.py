"""What the mask head makes of perfect boxes: the upper bound that the detector can give it.

``python -m benchmarks.sam_boxes --bundle claps-tiny --out sam_boxes.json`` takes the boxes of the true objects of
``val`` (8-connected pieces; compact targets only, a box says nothing of a tree or a band) as prompts, with the class
text and without, at the scale, in the tiles and with the mirrored looks of the pipeline, and scores the union of the
masks as `training.report.evaluate` does. No threshold but 0.5 is used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.tiles import fuse_tiles
from napari_claps.errors import ClapsError
from napari_claps.evaluate import object_boxes
from napari_claps.inference.mirroring import looks
from napari_claps.inference.scales import scaled_shape
from napari_claps.inference.tiles import Tile
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.words.vocabulary import TARGETS, Kind, make_prompt
from training.choose.scoring import Annotated, ScoreSheet
from training.data.records import first_of_each, segmentation_records
from training.data.scales import targets_by_side

MIN_SIDE = 1.0
"""What is left of a box in a tile must be this wide and high, in pixels of the view."""
AT_ONCE = 32
"""Prompts in one call of the mask decoder."""


def boxes_in(tile: Tile, boxes: np.ndarray) -> np.ndarray:
    """Parts (n, 4) of boxes (y0, x0, y1, x1) of the scaled image that lie in a tile, as x0, y0, x1, y1 of the tile."""
    low, high = np.array([tile.y, tile.x]), np.array([tile.y + tile.height, tile.x + tile.width])
    first, last = np.clip(boxes[:, :2], low, high) - low, np.clip(boxes[:, 2:], low, high) - low
    kept = (last - first >= MIN_SIDE).all(axis=1)
    return np.concatenate([first[:, ::-1], last[:, ::-1]], axis=1)[kept]


def masks_of_boxes(bundle: Bundle, item: Annotated, targets: Sequence[str], side: int, *,
                   with_text: bool) -> np.ndarray:
    """Probability (P, y, x) of each target: the highest of the masks of its true boxes."""
    shape = item.image.shape[:2]
    factor = np.array(scaled_shape(shape, side)) / np.array(shape)
    boxes = [object_boxes(item.truth[t]) * np.tile(factor, 2) for t in targets]
    texts = bundle.clip_text(tuple(make_prompt(t, item.record.modality).text for t in targets))

    def predict(view: Tensor, tile: Tile) -> Tensor:
        size = (tile.height // 2, tile.width // 2)
        found = torch.zeros(len(targets), *size, device=view.device)
        parts = [(i, box) for i, group in enumerate(boxes) for box in boxes_in(tile, group)]
        if not parts:
            return found
        with bundle.precision():
            maps = bundle.segmenter.decode_pixels(bundle.encode(view), item.record.modality)
            for start in range(0, len(parts), AT_ONCE):
                some = parts[start:start + AT_ONCE]
                which = torch.tensor([i for i, _ in some], device=view.device)
                prompts = MaskPrompts(
                    view=torch.zeros_like(which), text=texts[which] if with_text else None,
                    boxes=torch.tensor(np.array([box for _, box in some]), dtype=torch.float32, device=view.device))
                masks = bundle.segmenter.predict_masks(maps, prompts).logits.float().sigmoid()
                for (i, _), mask in zip(some, masks, strict=True):
                    found[i] = torch.maximum(found[i], mask)
        return found

    return fuse_tiles(item.image, side, bundle.device, predict)


def flipped(item: Annotated, axes: tuple[int, ...]) -> Annotated:
    """An image with its masks, flipped along axes of (y, x)."""
    return replace(item, image=np.flip(item.image, axes), truth={t: np.flip(m, axes) for t, m in item.truth.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--dataset", action="append", default=[], help="restrict to this data set; may be repeated")
    parser.add_argument("--held-out", action="store_true", help="held-out part of train instead of val, for choices")
    parser.add_argument("--limit", type=int, help="at most so many images of each data set")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    a = parser.parse_args(arguments)
    try:
        bundle = load_bundle(a.bundle, device=a.device)
        kinds, scores = (Kind.OBJECT, Kind.LESION), {"text and box": ScoreSheet(), "box": ScoreSheet()}
        records = segmentation_records("train" if a.held_out else "val", held_out=True if a.held_out else None,
                                       datasets=tuple(a.dataset))
        for record in tqdm(first_of_each(records, a.limit), desc="images", mininterval=10):
            targets = [t for t in record.targets if TARGETS[t].kind in kinds and t in record.masks
                       and bundle.manifest.pair(record.modality, t)]
            if not targets:
                continue
            item = Annotated.read(record)
            for side, group in targets_by_side(record.modality, targets, item.image.shape[:2]).items():
                for name, collected in scores.items():
                    maps = np.mean([np.flip(masks_of_boxes(bundle, flipped(item, axes), group, side,
                                                           with_text=name != "box"), [a + 1 for a in axes])
                                    for axes in looks(bundle.manifest, record.modality)], axis=0)
                    for target, probability in zip(group, maps, strict=True):
                        collected.add(item, target, probability, threshold=0.5)
        for name, collected in scores.items():
            path = a.out if name != "box" else a.out.with_name(f"{a.out.stem}_without_text{a.out.suffix}")
            collected.write(path, {"bundle": bundle.manifest.name, "version": bundle.manifest.version,
                                   "sha256": bundle.manifest.sha256, "prompt": name})
    except ClapsError as error:
        print(f"benchmarks.sam_boxes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
