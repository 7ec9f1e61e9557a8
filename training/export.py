"""Write a bundle: weights as fp16 safetensors, tokenizer, and ``bundle.toml`` with hashes, thresholds and provenance.

``python -m training.export --segmenter RUN/final.pt --clip RUN/final.pt --detector RUN/final.pt --thresholds FILE --out BUNDLE``
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from napari_claps.errors import InputError

LICENCE = "CC BY-NC 4.0, research use only"
NOTICE = ("Research use only, not for clinical decisions. Trained on public research data sets, some of which "
          "allow research use only; see docs/model-card.md for their terms.")
MAX_BYTES = 60_000_000


def write_manifest(folder: Path, *, name: str, version: str, licence: str, notice: str,
                   architecture: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]],
                   training: Mapping[str, Any]) -> None:
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
        "architecture": {head: {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
                         for head, config in architecture.items()},
        "pairs": [{k: v for k, v in pair.items() if v is not None} for pair in pairs],
        "training": dict(training),
    }
    (folder / "bundle.toml").write_bytes(tomli_w.dumps(content).encode())


def export(*, clip: Path, segmenter: Path, detector: Path, pairs: Sequence[Mapping[str, Any]], out: Path,
           name: str, version: str, training: Mapping[str, Any]) -> Path:
    """Put three checkpoints together as a bundle; returns its folder."""
    from napari_claps.models.bundle import save_bundle_weights
    from napari_claps.models.clip import ClipConfig, RetinalClip
    from napari_claps.models.detector import DetectorConfig, RetinalDetector
    from napari_claps.models.segmenter import RetinalSam, SegmenterConfig
    from training.run import load_checkpoint

    clip_state, seg_state, det_state = (load_checkpoint(p) for p in (clip, segmenter, detector))
    arch = {"clip": clip_state["arch"]["clip"], "segmenter": seg_state["arch"]["segmenter"],
            "detector": det_state["arch"]["detector"]}
    tower = RetinalClip(ClipConfig(**arch["clip"]), clip.parent / "text")
    tower.load_state_dict(clip_state.get("clip", clip_state.get("model")))
    sam = RetinalSam(tower, SegmenterConfig(**arch["segmenter"]))
    sam.load_head_state_dict(seg_state["segmenter"])
    boxes = RetinalDetector(DetectorConfig(**arch["detector"]), tower.text_transformer, tower.tokenizer)
    boxes.load_head_state_dict(det_state["detector"])
    save_bundle_weights(out, tower, sam, boxes)
    write_manifest(out, name=name, version=version, licence=LICENCE, notice=NOTICE, architecture=arch,
                   pairs=pairs, training=training)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("clip", "segmenter", "detector"):
        parser.add_argument(f"--{part}", type=Path, required=True, help="final.pt of its run")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.json of choose_thresholds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="claps-tiny")
    parser.add_argument("--version", default="0.1.0")
    a = parser.parse_args()
    chosen = json.loads(a.pairs.read_text())
    export(clip=a.clip, segmenter=a.segmenter, detector=a.detector, pairs=chosen["pairs"], out=a.out, name=a.name,
           version=a.version, training=chosen.get("training", {}))


if __name__ == "__main__":
    main()
