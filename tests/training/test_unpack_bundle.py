"""A bundle becomes checkpoints again, from which stages and the export go on without losing a bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from napari_claps.errors import BundleError, InputError
from napari_claps.models.bundles.bundle import WEIGHTS
from tests.training_data import CONFIG, write_data
from training.run.checkpoint import load_checkpoint
from training.stages.export import export
from training.stages.train_segmenter import train
from training.stages.unpack_bundle import unpack


def test_a_bundle_is_unpacked_and_exported_again_to_the_bit(tiny_bundle: Path, tmp_path: Path) -> None:
    runs = unpack(tiny_bundle, tmp_path / "runs")
    pairs = json.loads((runs / "pairs.json").read_text())["pairs"]
    again = export(**{part: runs / part / "final.pt" for part in WEIGHTS}, pairs=pairs, out=tmp_path / "again",
                   name="tiny", version="0.0.1", training={})
    for part in WEIGHTS:
        assert (again / f"{part}.safetensors").read_bytes() == (tiny_bundle / f"{part}.safetensors").read_bytes()
    assert {("cfp", "vessel"), ("oct", "drusen")} <= {(p["modality"], p["target"]) for p in pairs}
    with pytest.raises(InputError, match="runs: is not empty. Choose another --out"):
        unpack(tiny_bundle, runs)


def test_training_goes_on_from_a_bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAPS_DATA", str(write_data(tmp_path / "data")))
    start = unpack(tiny_bundle, tmp_path / "runs") / "segmenter" / "final.pt"
    alone = {**CONFIG, "steps": 1, "frozen_blocks": 99, "only": "presence", "spatial_share": 0.0}
    then, before = load_checkpoint(train(alone, tmp_path / "on", start, start)), load_checkpoint(start)
    assert all(torch.equal(v, before["clip"][k]) for k, v in then["clip"].items())
    changed = {k for k, v in then["segmenter"].items() if not torch.equal(v, before["segmenter"][k])}
    assert changed and all(k.startswith("mask_decoder.presence_head") for k in changed)


def test_a_bundle_of_other_networks_is_refused(official_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its clip is none that is trained here.*claps-tiny has all parts"):
        unpack(official_bundle, tmp_path / "runs")
    with pytest.raises(BundleError, match="nothing_here"):
        unpack(tmp_path / "nothing_here", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
