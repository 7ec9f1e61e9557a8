"""The three methods on the same images: how well they find compact targets, whether they say absent, what they cost.

``python -m benchmarks.methods --limit 2 --out table.md`` runs them on a few images of every data set of ``val`` and
writes a Markdown table. The modality is given. Vessels and layers are left out: they have no boxes, so the methods do
not differ there.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from napari_claps.errors import ClapsError
from napari_claps.evaluate import score_masks
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.pipeline import Pipeline
from napari_claps.io import read
from napari_claps.methods import METHODS
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.settings import Settings
from napari_claps.types import ModalityGuess
from napari_claps.words.vocabulary import MODALITIES, TARGETS, Kind
from training.choose.salip import varied_records
from training.data.records import Record, read_truth, segmentation_records


@dataclass(frozen=True)
class Row:
    """One method, image and target; `dice` is NaN where the target is absent."""

    method: str
    modality: str
    target: str
    present: bool
    found: bool
    dice: float


def asked_targets(bundle: Bundle, record: Record) -> list[str]:
    """Annotated compact targets that the bundle knows."""
    return [t for t in record.targets if TARGETS[t].kind in (Kind.OBJECT, Kind.LESION)
            and bundle.manifest.pair(record.modality, t)]


def measure(pipeline: Pipeline, record: Record, targets: Sequence[str]) -> tuple[list[Row], float]:
    """Rows of one image under one method, and its seconds."""
    image = read(record.image)
    # On the CPU the time that this process had, which other programs on the same cores do not change much.
    clock = time.process_time if pipeline.bundle.device == "cpu" else time.perf_counter
    start = clock()
    result = next(pipeline.run(image, targets, modality=ModalityGuess(record.modality, None, "user")))
    seconds = clock() - start
    rows = []
    for target in targets:
        score = score_masks(result.masks[target] > 0, read_truth(record, target, image.plane_shape))
        rows.append(Row(pipeline.settings.method, str(record.modality), target, score.present, score.found, score.dice))
    return rows, seconds


def quality_table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of Markdown: a line for every target and method."""
    yield "| modality | target | with / without | method | Dice | found where it is | absent where it is not |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.modality, row.target].append(row)
    for (modality, target), group in sorted(groups.items()):
        for method in METHODS:
            mine = [r for r in group if r.method == method]
            there, not_there = ([r for r in mine if r.present is present] for present in (True, False))
            yield (f"| {MODALITIES[modality].name} | {TARGETS[target].name} | {len(there)} / {len(not_there)} | "
                   f"{method} | {_mean([r.dice for r in there])} | {_mean([r.found for r in there])} | "
                   f"{_mean([not r.found for r in not_there])} |")


def time_table(seconds: dict[tuple[str, str], list[float]]) -> Iterator[str]:
    """Lines of Markdown: a line for every modality, (CPU) seconds and ratio to the default method."""
    yield "| modality | images | " + " | ".join(f"{m}, s per image" for m in METHODS) + " |"
    yield "|---|---|" + "---|" * len(METHODS)
    for modality in sorted({m for m, _ in seconds}):
        means = [float(np.mean(seconds[modality, method])) for method in METHODS]
        cells = [f"{mean:.2f} (x {mean / means[0]:.1f})" for mean in means]
        yield f"| {MODALITIES[modality].name} | {len(seconds[modality, next(iter(METHODS))])} | {' | '.join(cells)} |"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" if values and not math.isnan(np.mean(values)) else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny")
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--dataset", action="append", default=[], help="only this data set; may be repeated")
    parser.add_argument("--limit", type=int, default=2, help="images of each data set (default %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    try:
        bundle = load_bundle(a.bundle, device=a.device)
        records = segmentation_records(a.split, datasets=tuple(a.dataset))
        records = varied_records(records, a.limit, lambda r: asked_targets(bundle, r))
        pipelines = [Pipeline(bundle, Settings(bundle=a.bundle, method=m)) for m in METHODS]
        rows: list[Row] = []
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        for record in tqdm(records, desc="images", mininterval=10):
            for pipeline in pipelines:
                method = pipeline.settings.method
                if record is records[0]:
                    measure(pipeline, record, asked_targets(bundle, record))  # to warm up
                found, took = measure(pipeline, record, asked_targets(bundle, record))
                rows += found
                seconds[str(record.modality), method].append(took)
    except ClapsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    text = "\n".join([f"{len(records)} images of {a.split}, bundle {a.bundle} {bundle.manifest.version}, "
                      f"{bundle.device}, {a.threads} threads.", "", *quality_table(rows), "", *time_table(seconds), ""])
    with atomic_path(a.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
