"""Write a bundle: weights as fp16 safetensors, tokenizer, and ``bundle.toml`` with hashes, thresholds and provenance.

``python -m training.stages.export --clip RUN/final.pt --segmenter RUN/final.pt --detector RUN/final.pt --out BUNDLE``
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

from napari_claps import __version__
from napari_claps.errors import InputError
from napari_claps.models.bundles.bundle import save_bundle_weights
from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector
from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig
from training.choose.pairs import (
    add_accuracy,
    add_box_thresholds,
    default_pairs,
    is_answered,
    read_pairs,
    refuse,
)
from training.run.checkpoint import load_checkpoint
from training.run.command import run_command
from training.stages.text_base import cut_positions

LICENCE = "CC BY-NC 4.0, research use only"
NOTICE = ("Research use only, not for clinical decisions. Trained on public research data sets, some of which "
          "allow research use only; see the model card (docs/model-card.md in the source) for their terms.")
MAX_BYTES = 60_000_000
MIRRORED = ("cfp", "uwf", "slo", "ffa", "octa")
"""Modalities whose images are looked at mirrored too: that made their masks better on held-out images or in folds,
those of B-scans not (`benchmarks/mirrored.py`). Of ultra-widefield images none is held out: they go with the others."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("clip", "segmenter", "detector"):
        parser.add_argument(f"--{part}", type=Path, required=True, help="final.pt of its run")
    parser.add_argument("--pairs", type=Path, help="file of training.choose.thresholds; neutral thresholds without it")
    parser.add_argument("--box-thresholds", type=Path, help="detector.json of train_detector")
    parser.add_argument("--report", type=Path, help="folder of training.report.evaluate on val")
    parser.add_argument("--refuse", action="append", default=[], metavar="MODALITY/TARGET",
                        help="leave this pair out, however good it looks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="claps-tiny")
    parser.add_argument("--version", default=__version__, help="default: that of the package, %(default)s")
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
