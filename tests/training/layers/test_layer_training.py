"""A run on synthetic scans alone: it resumes as if it had never stopped, and evaluation reads what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from napari_claps.errors import InputError
from training.layers.evaluate import load, pair_of_runs
from training.layers.scans import LayerScan
from training.layers.train import make_network, select, train
from training.run.config import load_config
from training.run.run import Run

CONFIGS = sorted((Path(__file__).parents[3] / "training/layers/configs").glob("*.toml"))


def tiny(**lines: Any) -> dict[str, Any]:
    """The configuration for synthetic scans, on as little as there can be."""
    config = load_config(next(p for p in CONFIGS if p.stem == "fine_synthetic"))
    return config | {"widths": [4, 4, 4], "synthetic": 2, "view": [64, 64], "batch": 1, "steps": 3} | lines


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "draw_curves", lambda self: None)  # takes longer than all the rest
    whole = torch.load(train(tiny(), tmp_path / "whole"), weights_only=True)["model"]
    train(tiny(minutes=0), tmp_path / "parts")  # stops after its first step
    assert torch.load(tmp_path / "parts/last.pt", weights_only=True)["step"] == 1
    parts = torch.load(train(tiny(), tmp_path / "parts"), weights_only=True)["model"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    net, config = load(tmp_path / "parts")
    assert config == tiny() and not net.training
    train(tiny(steps=1), tmp_path / "warm", warm=tmp_path / "parts/final.pt")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configurations_name_networks_and_views_that_fit(path: Path) -> None:
    config = load_config(path)
    if config["network"] != "unet":
        assert config["learn"] in ("head", "decoder", "all")
        return
    net = make_network(config)
    rows, scans = config["view"]
    assert rows % net.multiple == 0 and scans % (net.column * net.multiple) == 0
    assert net.zoom == config["zoom"] and (config["real"] or config["synthetic"])


def test_folds_and_sources_are_left_out() -> None:
    scans = [LayerScan(f"scan_{i}", "747" if i % 2 else "833", None, None) for i in range(8)]
    assert [s.name[-1] for s in select(scans, {"fold": "2/4"})] == ["0", "2", "3", "4", "6", "7"]
    assert {s.source for s in select(scans, {"test_sources": ["747"]})} == {"833"}


def test_wrong_names_are_said_in_words() -> None:
    with pytest.raises(InputError, match="none of unet, bundle"):
        make_network({"network": "other"})
    with pytest.raises(InputError, match="LOCATOR:NETWORK"):
        pair_of_runs("runs/locator")
