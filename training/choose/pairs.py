"""The pairs of a bundle, modality and target with their thresholds, on their way through ``pairs.json`` into it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from napari_claps.errors import InputError
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.types import Modality
from training.data.records import segmentation_records

MIN_DICE = 0.3
"""Held-out Dice below which a pair is left out: the bundle then refuses it instead of guessing."""
MAX_FALSE_ALARMS = 0.5
"""Share of the held-out images without the target in which it may be found."""
MIN_CLASS = 5
"""Held-out images without a target, and patients with it, that are needed to fit its presence."""


def trained_pairs() -> dict[tuple[Modality, str], int]:
    """Pairs that occur in the training data, with the number of training images that show them."""
    counts: dict[tuple[Modality, str], int] = defaultdict(int)
    for record in segmentation_records("train"):
        for target in record.targets:
            counts[record.modality, target] += target in record.masks
    return dict(counts)


def pairs_of(bundle: Bundle) -> list[dict[str, Any]]:
    """Settings of a bundle's pairs as they are, for those that are not measured."""
    counts = trained_pairs()
    return [{"modality": str(p.modality), "target": p.target, "threshold": p.threshold,
             # A calibrated threshold says nothing about a score.
             "presence": 0.0 if p.calibration else p.presence,
             "text_weight": p.text_weight, "box_threshold": p.box_threshold, "min_area": p.min_area,
             "n_train": counts.get((p.modality, p.target), 0), "n_held_out": 0} for p in bundle.manifest.pairs]


def default_pairs(min_images: int = 8) -> list[dict[str, Any]]:
    """Pairs that enough training images show, and the layers of the synthetic B-scans, with neutral thresholds."""
    pairs = [{"modality": str(m), "target": t, "n_train": n} for (m, t), n in sorted(trained_pairs().items())
             if n >= min_images]
    return pairs + [{"modality": "oct", "target": t, "n_train": 0} for t in ("retina", "rpe_bm_complex")]


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Read the pairs of a file of `training.choose.thresholds` or `training.stages.unpack_bundle`.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
        for pair in pairs:
            pair["modality"], pair["target"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no pairs.json of training.choose.thresholds ({type(error).__name__}: "
                         f"{error}).") from error
    return pairs


def is_answered(pair: Mapping[str, Any]) -> bool:
    """Whether the bundle shall answer for a pair.

    Its masks must be good enough on held-out images and depend on the text. Where there are held-out images without
    the target, enough patients must show it to fit the presence, and the fitted one must call most of the others
    absent.
    """
    if pair.get("dice_held_out", 1.0) < MIN_DICE or not pair.get("told_apart", True):
        return False
    n_absent, n_present = pair.get("n_absent_held_out", 0), pair.get("n_patients_held_out", pair.get("n_held_out", 0))
    if n_absent < MIN_CLASS:
        return True
    false_alarms = pair.get("n_inner", 0) - pair.get("n_outer", 0)  # found, less those that show it
    return n_present >= MIN_CLASS and false_alarms <= MAX_FALSE_ALARMS * n_absent


def refuse(pairs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs without those that are named ``"oct/drusen"``.

    Raises
    ------
    InputError
        If there is no such pair.
    """
    known = {f"{p['modality']}/{p['target']}" for p in pairs}
    if unknown := sorted({*names} - known):
        raise InputError(f"--refuse {', '.join(unknown)}: no such pair. There are: {', '.join(sorted(known))}.")
    return [p for p in pairs if f"{p['modality']}/{p['target']}" not in names]


def add_box_thresholds(pairs: Sequence[dict[str, Any]], metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Take the detector's working threshold of each pair from ``detector.json``."""
    for pair in pairs:
        found = metrics.get(f"{pair['modality']}/{pair['target']}", {})
        if found.get("threshold") is not None:
            pair["box_threshold"] = round(min(max(float(found["threshold"]), 0.1), 0.6), 3)
            pair["box_ap50_held_out"] = round(float(found["ap50"]), 3)


def add_accuracy(pairs: Sequence[dict[str, Any]], report: Path) -> None:
    """Take the mean Dice of each pair on ``val`` from the tables of `training.report.evaluate`."""
    images = pd.read_csv(report / "images.csv").drop_duplicates("dataset").set_index("dataset")["modality"]
    scores = pd.read_csv(report / "scores.csv")
    scores["modality"] = scores["dataset"].map(images)
    present = scores[scores["dice"].notna()]
    means = present.groupby(["modality", "target"])["dice"].agg(["mean", "size"])
    for pair in pairs:
        key = (pair["modality"], pair["target"])
        if key in means.index:
            pair["dice"], pair["n_images"] = round(float(means.loc[key, "mean"]), 4), int(means.loc[key, "size"])
