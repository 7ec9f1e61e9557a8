"""A data folder in the form of the real one, with synthetic B-scans, and a tiny CLIP checkpoint to start from."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from napari_claps.synthetic import synthetic_bscan
from tests.tiny_bundle import TRUNK, write_text_folder
from training.run.checkpoint import save_atomically

CONFIG: dict[str, Any] = {
    "seed": 0, "batch": 2, "steps": 6, "lr": 3e-3, "trunk_rate": 0.2, "frozen_blocks": 6, "average": 0.5,
    "oct_share": 1.0, "synthetic": 2, "spatial_share": 0.5, "cross_weight": 2.0, "contrast_weight": 0.3,
    "save_every": 3, "weights": {},
    "views": {"oct": [64, 96], "en_face": [64, 64]},
    "segmenter": {"dim": 32, "widths": [8, 8, 16, 16, 16], "heads": 2, "depth": 1, "mlp": 32,
                  "text_weights": True},
}
"""A run of the segmenter that takes seconds."""

CLIP_CONFIG: dict[str, Any] = {
    "seed": 0, "trunk": TRUNK, "embed_dim": 16, "text_layers": 1, "cache_size": 96, "view": [64, 64], "batch": 4,
    "steps": 4, "lr": 3e-3, "save_every": 2,
}
"""A contrastive run that takes seconds, with `tiny_pretraining`."""


def tiny_pretraining(set_attribute: Callable[[object, str, object], None]) -> None:
    """Let `training.stages.pretrain_clip` begin with random weights and a text tower of one layer."""
    from training.stages import pretrain_clip

    set_attribute(pretrain_clip, "write_text_folder", lambda folder, layers: write_text_folder(folder))
    for name in ("load_imagenet", "load_minilm"):
        set_attribute(pretrain_clip, name, lambda *arguments: None)


def write_data(root: Path, *, count: int = 8) -> Path:
    """Write both lists with `count` B-scans of data set "made", with drusen and intraretinal fluid."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        image, truth = synthetic_bscan(rng, shape=(96, 128), findings=("drusen", "intraretinal_fluid"))
        path = root / "segmentation" / "made" / "images" / f"scan{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        for target in ("drusen", "intraretinal_fluid"):
            if truth[target].any():
                mask = root / "segmentation" / "made" / "masks" / target / f"scan{i}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((truth[target] * 255).astype(np.uint8)).save(mask)
        rows.append(["made", "train", "oct", path.relative_to(root).as_posix(), 128, 96, "drusen intraretinal_fluid"])
    with (root / "segmentation.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["dataset", "split", "modality", "image", "width", "height", "targets"], *rows])
    with (root / "pretraining.csv").open("w", newline="") as file:
        labelled = [["made", "oct", row[3], f"dme={i % 2}"] for i, row in enumerate(rows)]
        csv.writer(file).writerows([["dataset", "modality", "image", "labels"], *labelled])
    return root


def write_clip(folder: Path) -> Path:
    """Write ``final.pt`` and the text folder of an untrained CLIP model; returns the checkpoint."""
    from napari_claps.models.networks.clip import ClipConfig, RetinalClip

    torch.manual_seed(0)
    write_text_folder(folder / "text")
    clip = RetinalClip(ClipConfig(TRUNK, 16), folder / "text")
    save_atomically({"arch": {"clip": {"trunk": TRUNK, "embed_dim": 16}}, "model": clip.state_dict()},
                    folder / "final.pt")
    return folder / "final.pt"
