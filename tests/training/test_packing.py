"""A pack trains elsewhere: reduced data are the same to every stage, and weights come back whole."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_claps.errors import InputError
from napari_claps.inference.scales import working_side
from napari_claps.types import Modality
from napari_claps.words.vocabulary import TARGETS
from tests.training_data import CONFIG, write_clip, write_data
from training.data.records import Record, segmentation_records
from training.data.sampler import cache_record
from training.history import pack_gpu
from training.history.packing import MIB, halved, join_file, pack_data, packed_side, split_file


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_data(tmp_path / "data", count=5)
    Image.fromarray(np.zeros((90, 128, 3), np.uint8)).save(root / "other.png")
    with (root / "pretraining.csv").open("a") as file:
        file.write("made,oct,other.png,dme=1\n")
    monkeypatch.setenv("CLAPS_DATA", str(root))
    return root


@pytest.mark.parametrize("shape", [(2848, 4288), (584, 565), (300, 400), (1300, 1000), (3000, 1500)])
@pytest.mark.parametrize("targets", [("vessel",), ("vessel", "optic_disc", "microaneurysm"), ("optic_disc",)])
def test_a_reduced_image_is_seen_at_the_same_scales(shape, targets) -> None:
    record = Record("d", Modality.CFP, Path("x.png"), targets, {})
    side = packed_side(record, shape)
    assert side <= max(shape)
    small = tuple(round(n * side / max(shape)) for n in shape)
    for target in targets:
        kind = TARGETS[target].kind
        assert working_side(Modality.CFP, kind, small) == working_side(Modality.CFP, kind, shape)


def test_packed_data_have_the_form_of_the_data_folder(data, tmp_path, monkeypatch) -> None:
    before = [c for r in segmentation_records("train") for c in cache_record(r)]
    records = [("train", r) for r in segmentation_records("train")]
    quality = pack_data(records, tmp_path / "small", limit=MIB, pretraining_side=64)
    monkeypatch.setenv("CLAPS_DATA", str(tmp_path / "small"))
    after = [c for r in segmentation_records("train") for c in cache_record(r)]
    assert quality == 92 and len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert new.targets == old.targets and new.masks.keys() == old.masks.keys()
        assert new.image.shape == old.image.shape
        assert np.abs(new.image.astype(int) - old.image.astype(int)).mean() < 6
        for target, mask in old.masks.items():
            assert (new.masks[target] == mask).all()
    with (tmp_path / "small" / "pretraining.csv").open() as file:
        *both, alone = list(csv.DictReader(file))
    assert [r["image"] for r in both] == [f"segmentation/made/images/scan{i}.jpg" for i in range(5)]
    assert Image.open(tmp_path / "small" / alone["image"]).size == (64, 45) and alone["labels"] == "dme=1"
    with pytest.raises(InputError, match=r"the images take 0\.\d MiB at the lowest quality.*--dataset"):
        pack_data(records, tmp_path / "smaller", limit=1000)


def test_parts_make_the_file_again(tmp_path) -> None:
    content = np.random.default_rng(0).bytes(100_001)
    (tmp_path / "final.pt").write_bytes(content)
    *parts, listing = split_file(tmp_path / "final.pt", tmp_path / "parts", part_bytes=40_000)
    assert [p.stat().st_size for p in parts] == [40_000, 40_000, 20_001]
    assert join_file(listing, tmp_path / "back").read_bytes() == content
    parts[1].write_bytes(b"x" + parts[1].read_bytes()[1:])
    with pytest.raises(InputError, match=r"final\.pt\.001: this part of final\.pt is damaged"):
        join_file(listing, tmp_path / "back")
    parts[1].unlink()
    with pytest.raises(InputError, match=r"final\.pt\.001: this part of final\.pt is missing"):
        join_file(listing, tmp_path / "back")
    with pytest.raises(InputError, match="is no list of parts"):
        join_file(parts[0], tmp_path / "back")


def test_half_precision_keeps_what_is_no_weight() -> None:
    state = {"step": 3, "model": {"w": torch.tensor([1.5, float("nan")]), "n": torch.tensor(7)}, "names": ["a"]}
    small = halved(state)
    assert small["model"]["w"].dtype == torch.float16 and small["model"]["n"].dtype == torch.int64
    assert small["step"] == 3 and small["names"] == ["a"] and small["model"]["w"][0] == 1.5
    with pytest.raises(InputError, match="too large for half precision"):
        halved({"w": torch.tensor([1e6])})


@pytest.mark.slow
def test_a_pack_trains_alone_and_its_weights_come_back(data, tmp_path) -> None:
    clip = write_clip(tmp_path / "clip")
    assert pack_gpu.main(["pack", "--out", str(tmp_path / "pack"), "--checkpoint", str(clip)]) == 0
    facts = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert facts["images"] == 5 and facts["mib"] < 64
    code = tmp_path / "pack" / "code"
    assert not list(code.rglob("*.safetensors")) and not list(code.rglob("__pycache__"))
    lines = [f"{k} = {str(v).lower()}" for k, v in CONFIG.items() if not isinstance(v, dict)]
    lines += [f"[{k}]\n" + "\n".join(f"{a} = {str(b).lower()}" for a, b in v.items()) for k, v in CONFIG.items()
              if isinstance(v, dict)]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    environment = {k: v for k, v in os.environ.items() if k != "CLAPS_DATA"} | {
        "PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "training.history.pack_gpu", "train", "--stage", "segmenter", "--minutes", "0",
         "--config", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), "--part-mib", "4"],
        cwd=code, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(rows) == 1, "no minute means one step"
    parts = sorted((tmp_path / "run" / "parts").glob("final.pt.0*"))
    assert len(parts) > 1 and max(p.stat().st_size for p in parts) <= 4 * MIB
    assert pack_gpu.main(["join", str(tmp_path / "run/parts/final.pt.json"), "--text", str(clip.parent / "text"),
                          "--out", str(tmp_path / "back")]) == 0
    from training.stages.encoder import load_clip

    _, state = load_clip(tmp_path / "back" / "final.pt")
    assert state["arch"]["segmenter"]["dim"] == 32 and "segmenter" in state


def test_a_folder_with_other_things_is_not_overwritten(data, tmp_path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert pack_gpu.main(["pack", "--out", str(tmp_path / "mine")]) == 1
    assert "is not empty and no pack" in capsys.readouterr().err and (tmp_path / "mine" / "thesis.tex").exists()
