"""What keeps a mask from being better: too little training, too few images, the threshold, or the resolution.

``python -m benchmarks.limits --bundle claps-tiny --out limits.md`` prints, for each data set and target, the mean Dice
of the masks within the field of view

* of images that were learnt from: low there means too few steps, or a network that is too small;
* of held-out images of ``train`` and of ``val``: lower than the one before means too few images, or other ones;
* of ``val`` at the threshold that suits each image best: what no threshold can surpass;
* of the annotation itself, brought to the scale of the networks' answers and back: what no network can surpass there.

All of images that show the target, without regard to presence: a mask that would be withheld counts as well.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from napari_claps.errors import ClapsError, InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.scales import scaled_shape
from napari_claps.inference.single_scale import segment_at_scale
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE
from napari_claps.words.vocabulary import make_prompt
from training.choose.scoring import Annotated, dice
from training.choose.thresholds import THRESHOLDS
from training.data.records import Record, data_root, first_of_each, segmentation_records
from training.data.scales import targets_by_side

PARTS = {"learnt from": ("train", False), "held out": ("train", True), "val": ("val", None)}
"""Parts of the data: split, and which share of it."""
BEST, CEILING = "val, best threshold of each image", "annotation at the networks' scale"


def records_by_part(datasets: Sequence[str], limit: int | None) -> dict[str, list[Record]]:
    """The images of each of `PARTS`, at most `limit` of each data set; of all data sets if none is named.

    Raises
    ------
    InputError
        If a data set is unknown.
    """
    parts = {part: segmentation_records(split, held_out=held_out) for part, (split, held_out) in PARTS.items()}
    known = sorted({r.dataset for records in parts.values() for r in records})
    if unknown := sorted({*datasets} - {*known}):
        raise InputError(f"{data_root()}: there is no data set {', '.join(unknown)}. There are: {', '.join(known)}.")
    return {part: first_of_each([r for r in records if not datasets or r.dataset in datasets], limit)
            for part, records in parts.items()}


def at_scale(mask: np.ndarray, side: int) -> np.ndarray:
    """The share (y, x) of an annotation (y, x) that is left where networks answer for every second pixel of `side`."""
    size = scaled_shape(mask.shape, side)
    whole = torch.from_numpy(mask[None, None].astype(np.float32))
    coarse = F.interpolate(whole, [-(-n // PIXEL_STRIDE) for n in size], mode="area")
    return F.interpolate(coarse, mask.shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def answers(bundle: Bundle, records: Sequence[Record]) -> Iterator[tuple[Annotated, int, str, float, np.ndarray]]:
    """Image, working scale, target, its threshold and its probability (y, x), for each target that an image shows."""
    prompter = make_prompter("claps", bundle)
    for record in tqdm(records, desc="images", mininterval=10):
        shown = [t for t in record.masks if bundle.manifest.pair(record.modality, t)]
        item = Annotated.read(record) if shown else None
        for side, group in targets_by_side(record.modality, shown, item.image.shape[:2] if item else (1, 1)).items():
            queries = [Query(make_prompt(t, record.modality), bundle.manifest.pair(record.modality, t)) for t in group]
            maps = segment_at_scale(bundle, prompter, [item.image], side, queries)[0].probability
            for target, query, probability in zip(group, queries, maps, strict=True):
                if item.truth[target].any():
                    yield item, side, target, query.pair.threshold, probability


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--dataset", action="append", default=[], help="restrict to this data set; may be repeated")
    parser.add_argument("--limit", type=int, help="at most so many images of each data set and part")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the table there")
    a = parser.parse_args(arguments)
    scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        bundle = load_bundle(a.bundle, device=a.device)
        for part, records in records_by_part(a.dataset, a.limit).items():
            for item, side, target, threshold, probability in answers(bundle, records):
                truth, field = item.truth[target], item.field_of_view
                row = scores[item.record.dataset, target]
                row[part].append(dice(probability >= threshold, truth, field))
                if part == "val":
                    row[BEST].append(max(dice(probability >= t, truth, field) for t in (*THRESHOLDS, threshold)))
                    row[CEILING].append(dice(at_scale(truth, side) >= 0.5, truth, field))
    except ClapsError as error:
        print(f"benchmarks.limits: {error}", file=sys.stderr)
        return 1
    columns = [*PARTS, BEST, CEILING]
    lines = [f"| data set | target | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for (dataset, target), row in sorted(scores.items()):
        cells = ["" if not row[c] else f"{np.mean(row[c]):.3f}" + (f" ({len(row[c])})" if c in PARTS else "")
                 for c in columns]
        lines.append(f"| {dataset} | {target} | {' | '.join(cells)} |")
    print(table := "\n".join(lines))
    if a.out:
        with atomic_path(a.out) as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
