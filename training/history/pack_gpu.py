"""Train on another machine with a GPU that takes only a small folder and gives back only small files.

``python -m training.history.pack_gpu pack --out PACK --checkpoint RUN/final.pt`` puts code, reduced data and a
checkpoint into PACK, at most 64 MiB in all. There, in PACK/code,
``PYTHONPATH=src:. python -m training.history.pack_gpu train --stage segmenter --minutes 9 --config CONFIG --out OUT``
trains for that time and leaves the weights in OUT/parts, in half precision and files of at most 16 MiB. Back here,
``python -m training.history.pack_gpu join OUT/parts/final.pt.json --text RUN/text --out RUN2`` puts them together, and
``--init RUN2/final.pt`` goes on. The machine needs the packages of napari-claps, and nothing else of this repository.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from napari_claps.errors import ClapsError, InputError
from training.data.records import data_root, segmentation_records
from training.history.packing import (
    MIB,
    folder_size,
    halved,
    join_file,
    pack_checkpoint,
    pack_code,
    pack_data,
    split_file,
)
from training.run.checkpoint import load_checkpoint, save_atomically
from training.run.command import run_stage
from training.run.config import load_config

STAGES = ("clip", "segmenter", "detector")
HERE = Path(__file__).parents[3]
"""The pack, when this file lies in PACK/code/training/history."""


def pack(out: Path, *, checkpoint: Path | None, datasets: Sequence[str], splits: Sequence[str], limit: int,
         pretraining_side: int) -> dict[str, object]:
    """Write the pack; returns what is in it.

    Raises
    ------
    InputError
        If it cannot be made small enough, or `out` has other things in it.
    """
    if out.exists() and any(out.iterdir()) and not (out / "pack.json").is_file():
        raise InputError(f"{out}: is not empty and no pack. Choose another --out.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "pack.json").write_text("{}")
    pack_code(out / "code")
    if checkpoint is not None:
        pack_checkpoint(checkpoint, out / "init")
    left = limit - folder_size(out) - 4096
    records = [(s, r) for s in splits for r in segmentation_records(s, datasets=tuple(datasets))]
    quality = pack_data(records, out / "data", limit=left, pretraining_side=pretraining_side)
    facts = {"images": len(records), "quality": quality, "mib": round(folder_size(out) / MIB, 2)}
    (out / "pack.json").write_text(json.dumps(facts, indent=1))
    return facts


def train(stage: str, config_file: Path, out: Path, *, minutes: float, steps: int | None, init: Path | None,
          warm: Path | None, part_bytes: int) -> list[Path]:
    """Train for some minutes from the checkpoint of the pack, and cut the weights into parts; returns these."""
    os.environ.setdefault("CLAPS_DATA", str(HERE / "data"))
    data_root()
    config = load_config(config_file) | {"minutes": minutes} | ({"steps": steps} if steps else {})
    init = init or HERE / "init" / "final.pt"
    if stage == "clip":
        from training.stages import pretrain_clip

        path = pretrain_clip.train(config, out)
    elif stage == "segmenter":
        from training.stages import train_segmenter

        path = train_segmenter.train(config, out, init, warm)
    else:
        from training.stages import train_detector

        path = train_detector.train(config, out, init)
    small = out / "half" / path.name
    small.parent.mkdir(exist_ok=True)
    save_atomically(halved(load_checkpoint(path)), small)
    parts = split_file(small, out / "parts", part_bytes=part_bytes)
    for name in ("config.json", "log.jsonl", "detector.json"):
        if (out / name).exists():
            shutil.copy2(out / name, out / "parts" / name)
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    p = verbs.add_parser("pack", help="code, data and a checkpoint in one small folder")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--checkpoint", type=Path, help="final.pt to start from")
    p.add_argument("--dataset", action="append", default=[], help="only this data set; may be repeated")
    p.add_argument("--split", action="append", choices=("train", "val"), help="default: train")
    p.add_argument("--pretraining-side", type=int, default=0, help="add the pre-training images, this long")
    p.add_argument("--limit-mib", type=float, default=64.0)
    t = verbs.add_parser("train", help="train for a fixed time, there")
    t.add_argument("--stage", choices=STAGES, required=True)
    t.add_argument("--config", type=Path, required=True)
    t.add_argument("--minutes", type=float, required=True)
    t.add_argument("--steps", type=int, help="of the learning-rate schedule, if other than in the configuration")
    t.add_argument("--init", type=Path, help="default: the checkpoint of the pack")
    t.add_argument("--warm", type=Path, help="mask head to start from (segmenter)")
    t.add_argument("--part-mib", type=float, default=16.0)
    t.add_argument("--out", type=Path, required=True)
    s = verbs.add_parser("split", help="cut a file into parts")
    s.add_argument("file", type=Path)
    s.add_argument("--part-mib", type=float, default=16.0)
    s.add_argument("--out", type=Path, required=True)
    j = verbs.add_parser("join", help="put parts together")
    j.add_argument("listing", type=Path, help="NAME.json beside the parts")
    j.add_argument("--text", type=Path, help="text folder of the run that it started from, copied beside it")
    j.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(arguments)
    if a.verb == "train":
        return run_stage(lambda: train(a.stage, a.config, a.out, minutes=a.minutes, steps=a.steps, init=a.init,
                                       warm=a.warm, part_bytes=int(a.part_mib * MIB)), a.config)
    try:
        if a.verb == "pack":
            facts = pack(a.out, checkpoint=a.checkpoint, datasets=a.dataset, splits=a.split or ["train"],
                         limit=int(a.limit_mib * MIB), pretraining_side=a.pretraining_side)
            print(json.dumps(facts))
        elif a.verb == "split":
            print(*split_file(a.file, a.out, part_bytes=int(a.part_mib * MIB)), sep="\n")
        else:
            print(join_file(a.listing, a.out))
            if a.text is not None:
                shutil.copytree(a.text, a.out / "text", dirs_exist_ok=True)
    except ClapsError as error:
        print(f"training.history.pack_gpu: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
