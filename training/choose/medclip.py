"""Choose the settings of the method medclip-sam per modality on held-out images of ``train``; ``val`` is never seen.

``python -m training.choose.medclip --bundle claps-tiny --out rows.json --toml medclip_sam.toml``

goes on where a stopped run with the same ``--out`` ended.

For each image and compact target the saliency is computed for a coarse grid of
layer, beta and variance, cut into regions in several ways, and handed to SAM
as boxes, points or both (`training.choose.medclip_measures`). The measure is the Dice
of what SAM draws, as in a run. Lesions are looked for in some twenty tiles of
a photograph: two of them are tried, one that shows most of them and one that
shows none, and lesions have settings of their own.

The score below which a target is absent lies halfway between the mean score of
targets that are there and the mean of those that are not (and of nonsense),
but never above the lowest of those that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from napari_claps.methods.medclip.m2ib import Bottleneck
from napari_claps.methods.medclip.options import MedClipOptions
from napari_claps.methods.medclip.points import PointRule, PromptKind
from napari_claps.methods.medclip.regions import Cut, RegionRule
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.types import Modality
from napari_claps.words.vocabulary import Kind
from training.choose.medclip_measures import NONSENSE_TEXT, boxed_targets, measure
from training.data.records import Record, segmentation_records
from training.run.command import run_command

NEAR = 0.01
"""Differences in Dice that so few images cannot tell."""

REGION_KEYS = ("layer", "cut", "threshold", "components")
KEYS = ("beta", "variance", *REGION_KEYS, "prompts", "positives", "negatives")


def pick(bundle: Bundle, limit: int) -> list[Record]:
    """At most `limit` held-out images of each data set, so that every target is shown as evenly as possible."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in segmentation_records("train", held_out=True):
        if boxed_targets(bundle, record):
            groups[record.dataset].append(record)
    chosen = []
    for records in groups.values():
        shown: dict[str, int] = defaultdict(int)
        left = list(records)
        for _ in range(min(limit, len(left))):
            targets = sorted({t for r in left for t in boxed_targets(bundle, r)}, key=lambda t: shown[t])
            best = min(left, key=lambda r: [t not in r.masks for t in targets])
            left.remove(best)
            chosen.append(best)
            for target in best.masks:
                shown[target] += 1
    return chosen


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best settings of one modality and kind: by the mean Dice over targets, each the mean over its views."""
    settings: dict[tuple[Any, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["dice"] is not None:
            settings[tuple(row[k] for k in KEYS)][row["target"]].append(row["dice"])
    # Rows of an earlier grid may be among them: a setting counts if it was tried in all views.
    views = {(r["image"], r["target"], r["view"]) for r in rows if r["dice"] is not None}
    means = {key: {t: float(np.mean(v)) for t, v in found.items()} for key, found in settings.items()
             if sum(map(len, found.values())) == len(views)}
    overall = {key: float(np.mean(list(found.values()))) for key, found in means.items()}
    # Among settings as good as the best, the first: K-means, boxes and the paper's values come first.
    best = next(key for key, value in overall.items() if value >= max(overall.values()) - NEAR)
    chosen = dict(zip(KEYS, best, strict=True))
    same = [r for r in rows if all(r[k] == chosen[k] for k in KEYS)]
    there = [r["score"] for r in same if r["present"]]
    nonsense = [r["score"] for r in rows if r["target"] == NONSENSE_TEXT and r["prompts"] == PromptKind.BOXES
                and all(r[k] == chosen[k] for k in REGION_KEYS)]
    missing = [r["score"] for r in same if not r["present"] and r["target"] != NONSENSE_TEXT]
    others = missing + nonsense
    score = min(min(there), (np.mean(there) + np.mean(others)) / 2) if others else min(there)
    return {**chosen, "score": float(np.floor(score * 100) / 100), "dice": means[best], "present": there,
            "missing": missing, "nonsense": nonsense, "n_views": len(there) + len(missing)}


def as_toml(chosen: dict[str, dict[str, Any]], bundle: str) -> str:
    """The options file, with what the choice rests on as comments."""
    lines = ["# Settings of the method medclip-sam, per modality; what a table leaves out is as under [default], and",
             "# for lesions as in the table of their modality. Chosen by training/choose/medclip.py on held-out images",
             f"# of train, with bundle {bundle}: the best mean Dice of the masks.", "",
             "[default]              # for modalities without a compact target to choose by",
             *table(MedClipOptions(score=0.3))]
    for name, found in chosen.items():
        dice = ", ".join(f"{t} {v:.2f}" for t, v in found["dice"].items())
        scores = ", ".join(f"{group} {np.mean(found[group]):.2f} (n={len(found[group])})"
                           for group in ("present", "missing", "nonsense") if found[group])
        options = MedClipOptions(
            Bottleneck(layer=found["layer"], beta=found["beta"], variance=found["variance"]),
            RegionRule(Cut(found["cut"]), found["threshold"], found["components"]),
            PointRule(PromptKind(found["prompts"]), found["positives"], found["negatives"]), score=found["score"])
        lines += ["", f"[{name}]", f"# Dice of the masks in {found['n_views']} held-out views: {dice}",
                  f"# mean score: {scores}", *table(options)]
    return "\n".join(lines) + "\n"


def table(options: MedClipOptions) -> list[str]:
    """Lines of one table."""
    bottleneck, regions, points = options.bottleneck, options.regions, options.points
    return [f"layer = {bottleneck.layer}", f"beta = {bottleneck.beta}", f"variance = {bottleneck.variance}",
            f'cut = "{regions.cut}"', f"threshold = {regions.threshold}", f"components = {regions.components}",
            f'prompts = "{points.prompts}"', f"positives = {points.positives}", f"negatives = {points.negatives}",
            f"templates = {options.templates}", f"score = {options.score}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--limit", type=int, default=3, help="images of each data set, at most")
    parser.add_argument("--out", type=Path, required=True, help="all measurements, as JSON")
    parser.add_argument("--toml", type=Path, required=True, help="the options file")
    a = parser.parse_args()
    bundle = load_bundle(a.bundle, device="cpu")
    rows: list[dict[str, Any]] = json.loads(a.out.read_text()) if a.out.is_file() else []
    begin = time.process_time()
    records = sorted(pick(bundle, a.limit), key=lambda r: (r.modality, r.dataset), reverse=True)
    for record in tqdm(records, desc="held-out images", mininterval=10):
        if (record.dataset, record.stem) not in {(r["dataset"], r["image"]) for r in rows}:
            rows += measure(bundle, record, nonsense=not any(r["dataset"] == record.dataset for r in rows))
            a.out.write_text(json.dumps(rows))
    tqdm.write(f"{time.process_time() - begin:.0f} s of CPU time")
    chosen = {}
    for modality in Modality:
        for name, kind in ((str(modality), Kind.OBJECT), (f"{modality}.lesion", Kind.LESION)):
            mine = [r for r in rows if r["modality"] == modality and r["kind"] == kind]
            if any(r["present"] for r in mine):
                chosen[name] = choose(mine)
    a.toml.write_text(as_toml(chosen, f"{bundle.manifest.name} {bundle.manifest.version}"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
