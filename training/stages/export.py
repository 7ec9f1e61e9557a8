"""Write a bundle: weights as fp16 safetensors, tokenizer, and ``bundle.toml`` with hashes, thresholds and provenance.

``python -m training.export --clip RUN/final.pt --segmenter RUN/final.pt --detector RUN/final.pt --out BUNDLE``
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from napari_claps.errors import InputError
from training.stage import run_command

LICENCE = "CC BY-NC 4.0, research use only"
NOTICE = ("Research use only, not for clinical decisions. Trained on public research data sets, some of which "
          "allow research use only; see the model card (docs/model-card.md in the source) for their terms.")
MAX_BYTES = 60_000_000
MIN_DICE = 0.3
"""Held-out Dice below which a pair is left out: the bundle then refuses it instead of guessing."""
MAX_FALSE_ALARMS = 0.5
"""Share of the held-out images without the target in which it may be found."""
MIRRORED = ("cfp", "uwf", "slo", "ffa", "octa")
"""Modalities whose images are looked at mirrored too: that made their masks better on held-out images or in folds,
those of B-scans not (`benchmarks/mirrored.py`). Of ultra-widefield images none is held out: they go with the others."""
MIN_CLASS = 5
"""Held-out images without a target, and patients with it, that are needed to fit its presence."""


def write_manifest(folder: Path, *, name: str, version: str, licence: str, notice: str,
                   architecture: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]],
                   training: Mapping[str, Any], mirrored: Sequence[str] = ()) -> None:
    """Write ``bundle.toml`` over the files that lie in `folder`.

    Raises
    ------
    InputError
        If the files are larger than `MAX_BYTES` together.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "bundle.toml")
    size = sum(p.stat().st_size for p in files)
    if size > MAX_BYTES:
        raise InputError(f"{folder}: {size / 1e6:.1f} MB are more than the {MAX_BYTES / 1e6:.0f} MB a bundle may have.")
    content = {
        "name": name, "version": version, "licence": licence, "notice": notice,
        "files": {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        **({"views": {"mirrored": list(mirrored)}} if mirrored else {}),
        "architecture": {head: {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
                         for head, config in architecture.items()},
        "pairs": [{k: v for k, v in pair.items() if v is not None} for pair in pairs],
        "training": dict(training),
    }
    (folder / "bundle.toml").write_bytes(tomli_w.dumps(content).encode())


def export(*, clip: Path, segmenter: Path, detector: Path, pairs: Sequence[Mapping[str, Any]], out: Path,
           name: str, version: str, training: Mapping[str, Any], mirrored: Sequence[str] = MIRRORED) -> Path:
    """Put three checkpoints together as a bundle; returns its folder."""
    from napari_claps.models.bundles.bundle import save_bundle_weights
    from napari_claps.models.networks.clip import ClipConfig, RetinalClip
    from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector
    from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig
    from training.run import load_checkpoint
    from training.text_base import cut_positions

    clip_state, seg_state, det_state = (load_checkpoint(p) for p in (clip, segmenter, detector))
    arch = {"clip": clip_state["arch"]["clip"], "segmenter": seg_state["arch"]["segmenter"],
            "detector": det_state["arch"]["detector"]}
    tower = RetinalClip(ClipConfig(**arch["clip"]), clip.parent / "text")
    tower.load_state_dict(clip_state.get("clip", clip_state.get("model")))
    sam = RetinalSam(tower, SegmenterConfig(**arch["segmenter"]))
    sam.load_head_state_dict(seg_state["segmenter"])
    boxes = RetinalDetector(DetectorConfig(**arch["detector"]), tower.text_transformer, tower.tokenizer)
    boxes.load_head_state_dict(det_state["detector"])
    cut_positions(tower)
    save_bundle_weights(out, tower, sam, boxes)
    write_manifest(out, name=name, version=version, licence=LICENCE, notice=NOTICE, architecture=arch,
                   pairs=pairs, training=training, mirrored=mirrored)
    return out


def default_pairs(min_images: int = 8) -> list[dict[str, Any]]:
    """Pairs that enough training images show, and the layers of the synthetic B-scans, with neutral thresholds."""
    from training.choose_thresholds import trained_pairs

    pairs = [{"modality": str(m), "target": t, "n_train": n} for (m, t), n in sorted(trained_pairs().items())
             if n >= min_images]
    return pairs + [{"modality": "oct", "target": t, "n_train": 0} for t in ("retina", "rpe_bm_complex")]


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Read the pairs of a file of `training.choose_thresholds` or `training.unpack_bundle`.

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
        raise InputError(f"{path}: is no pairs.json of training.choose_thresholds ({type(error).__name__}: "
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
    """Take the mean Dice of each pair on ``val`` from the tables of `training.evaluate`."""
    import pandas as pd

    images = pd.read_csv(report / "images.csv").drop_duplicates("dataset").set_index("dataset")["modality"]
    scores = pd.read_csv(report / "scores.csv")
    scores["modality"] = scores["dataset"].map(images)
    present = scores[scores["dice"].notna()]
    means = present.groupby(["modality", "target"])["dice"].agg(["mean", "size"])
    for pair in pairs:
        key = (pair["modality"], pair["target"])
        if key in means.index:
            pair["dice"], pair["n_images"] = round(float(means.loc[key, "mean"]), 4), int(means.loc[key, "size"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("clip", "segmenter", "detector"):
        parser.add_argument(f"--{part}", type=Path, required=True, help="final.pt of its run")
    parser.add_argument("--pairs", type=Path, help="file of choose_thresholds; neutral thresholds without it")
    parser.add_argument("--box-thresholds", type=Path, help="detector.json of train_detector")
    parser.add_argument("--report", type=Path, help="folder of training.evaluate on val")
    parser.add_argument("--refuse", action="append", default=[], metavar="MODALITY/TARGET",
                        help="leave this pair out, however good it looks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="claps-tiny")
    parser.add_argument("--version", default="0.11.0")
    parser.add_argument("--note", default="", help="a sentence on how the weights came about, kept in the bundle")
    a = parser.parse_args()
    pairs = refuse(read_pairs(a.pairs) if a.pairs else default_pairs(), a.refuse)
    pairs = [{k: v for k, v in p.items() if k != "told_apart"} for p in pairs if is_answered(p)]
    if a.box_thresholds:
        add_box_thresholds(pairs, json.loads(a.box_thresholds.read_text()))
    if a.report:
        add_accuracy(pairs, a.report)
    training = {"note": a.note}
    for part in ("clip", "segmenter", "detector"):
        training[part] = json.loads((getattr(a, part).parent / "config.json").read_text())
    export(clip=a.clip, segmenter=a.segmenter, detector=a.detector, pairs=pairs, out=a.out, name=a.name,
           version=a.version, training=training)


if __name__ == "__main__":
    sys.exit(run_command(main))
