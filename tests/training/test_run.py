"""What a run keeps, when it stops, and what it says when something is wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_claps.errors import DeviceError, InputError
from napari_claps.types import Modality
from tests.training_data import CLIP_CONFIG, CONFIG, tiny_pretraining, write_clip, write_data
from training.data.records import Record, segmentation_records
from training.data.selection import fold_of, training_records
from training.run.command import run_stage
from training.run.config import load_config
from training.run.parallel import Processes, number_format
from training.run.run import Run
from training.stages import pretrain_clip
from training.stages.encoder import load_clip
from training.stages.train_segmenter import train
from training.stages.warm_start import warm_start

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_data(tmp_path / "data", count=6)
    monkeypatch.setenv("CLAPS_DATA", str(root))
    return root


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_number_formats() -> None:
    assert number_format("bfloat16", "cpu") is torch.bfloat16 and number_format("float32", "cpu") is torch.float32
    assert number_format("auto", "cpu") in (torch.float32, torch.bfloat16)
    with pytest.raises(InputError, match="precision = 'half' is none of auto, float32, bfloat16"):
        number_format("half", "cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="--nproc_per_node 2"):
        Processes.join()


def test_a_run_keeps_what_it_was_made_from_and_both_precisions_agree(data: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    for precision in ("float32", "bfloat16"):
        train({**CONFIG, "steps": 1, "precision": precision}, tmp_path / precision, clip)
    single, half = ([r["loss"] for r in rows(tmp_path / p)] for p in ("float32", "bfloat16"))
    assert np.isfinite(half).all() and half != single, "the networks did compute in bfloat16"
    assert np.allclose(single, half, rtol=0.05)

    facts = json.loads((tmp_path / "bfloat16" / "config.json").read_text())
    assert facts["precision"] == "bfloat16" and facts["config"]["seed"] == 0 and "git" in facts
    with (tmp_path / "bfloat16" / "data.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == facts["data"]["files"]
    for entry in listed:
        content = (data / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"] and len(content) == int(entry["bytes"])
    used = training_records(CONFIG)
    assert {e["path"] for e in listed} >= {r.image.relative_to(data).as_posix() for r in used}
    assert torch.load(tmp_path / "bfloat16" / "final.pt", weights_only=True)["data"] == facts["data"]


def test_pretraining_resumes_and_keeps_its_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pretraining(monkeypatch.setattr)
    path = pretrain_clip.train(CLIP_CONFIG, tmp_path / "whole")
    real = Run.is_due

    def killed(run: Run, step: int, every: int, last: int) -> bool:
        if step == 3:
            raise KeyboardInterrupt
        return real(run, step, every, last)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "is_due", killed)
        pretrain_clip.train(CLIP_CONFIG, tmp_path / "killed")
    again = pretrain_clip.train(CLIP_CONFIG, tmp_path / "killed")
    whole, resumed = ([r["loss"] for r in rows(tmp_path / n) if "loss" in r] for n in ("whole", "killed"))
    assert len(whole) == 4 and np.allclose(whole, resumed, rtol=1e-3)
    first, second = (torch.load(p, weights_only=True) for p in (path, again))
    assert first["data"] == second["data"] and first["data"]["files"] == 6


def small_run(folder: Path, **config: object) -> tuple[Run, torch.nn.Module, torch.optim.Optimizer, object]:
    run, model = Run(folder, {"seed": 0, **config}), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return run, model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)


def test_a_run_stops_when_its_time_is_up(tmp_path: Path) -> None:
    run, *state = small_run(tmp_path / "a", minutes=0.0)
    done = []
    for step in run.steps(0, 100):
        done.append(step)
        if run.is_due(step, 50, 100):
            run.save(step + 1, *state, random.Random(0))
    assert done == [0] and (tmp_path / "a" / "last.pt").exists()
    run, *state = small_run(tmp_path / "a")
    assert run.resume(*state, random.Random(1)) == 1
    assert list(run.steps(1, 4)) == [1, 2, 3]


def test_what_was_logged_after_the_last_checkpoint_is_forgotten(tmp_path: Path) -> None:
    run, *state = small_run(tmp_path, lr=1)
    for step in range(4):
        run.log(step, loss=1.0)
        if step == 1:
            run.save(step + 1, *state, random.Random(0))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    again, *state = small_run(tmp_path, lr=2)
    assert again.resume(*state, random.Random(0)) == 2 and [r["step"] for r in rows(tmp_path)] == [0, 1]
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["config"]["lr"] == 2 and [e["config"]["lr"] for e in facts["earlier"]] == [1]


def test_another_number_of_steps_is_another_plan(tmp_path: Path) -> None:
    """A OneCycleLR of 4 steps would fail in the middle of a run of 8, and end a run of 2 at its highest rate."""
    def planned(steps: int) -> tuple[Run, torch.nn.Module, torch.optim.Optimizer, object]:
        run, model, optimizer, _ = small_run(tmp_path)
        return run, model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)

    run, *state = planned(4)
    run.save(2, *state, random.Random(0))
    run, *state = planned(8)
    with pytest.raises(InputError, match=r"last\.pt: .*planned for 4 steps, not for 8. Set steps = 4, or .*--out"):
        run.resume(*state, random.Random(0))
    run, *state = planned(4)
    assert run.resume(*state, random.Random(0)) == 2


def test_a_configuration_builds_on_another(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("steps = 9\nbatch = 8\n[weights]\ndrive = 2.0\nhrf = 1.0\n")
    (tmp_path / "b.toml").write_text('base = "a.toml"\nsteps = 3\nexclude = ["drive"]\n[weights]\nhrf = 5.0\n')
    assert load_config(tmp_path / "b.toml") == {
        "steps": 3, "batch": 8, "exclude": ["drive"], "weights": {"drive": 2.0, "hrf": 5.0}}
    (tmp_path / "c.toml").write_text('base = "nowhere.toml"')
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read as a training configuration"):
        load_config(tmp_path / "c.toml")
    (tmp_path / "d.toml").write_text('base = "d.toml"')
    with pytest.raises(InputError, match=r"d\.toml: base = .* names the file itself"):
        load_config(tmp_path / "d.toml")
    (tmp_path / "e.toml").write_text('base = "f.toml"')
    (tmp_path / "f.toml").write_text('base = "e.toml"')
    with pytest.raises(InputError, match=r'f\.toml: base = "e\.toml" names .* one that builds on it'):
        load_config(tmp_path / "e.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "training/configs").glob("*.toml"))
                         + sorted((ROOT / "benchmarks/configs").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configurations_can_be_read(path: Path) -> None:
    config = load_config(path)
    assert {"seed", "steps", "batch", "lr"} <= config.keys() and "base" not in config


def test_data_sets_are_chosen_by_name(data: Path) -> None:
    assert {r.dataset for r in training_records({"datasets": ["made"]})} == {"made"}
    with pytest.raises(InputError, match=r"data set maed, named in the configuration.*There are: made"):
        training_records({"exclude": ["maed"]})
    with pytest.raises(InputError, match=r"no image to learn from is left of the 6.*exclude = \['made'\]"):
        training_records({"exclude": ["made"]})


def test_folds_part_the_images_of_each_data_set(data: Path) -> None:
    folds = [{r.stem for r in training_records({"fold": f"{k}/3"}, held_out=True)} for k in (1, 2, 3)]
    everything = {r.stem for r in segmentation_records("train")}
    assert set().union(*folds) == everything and sorted(map(len, folds)) == [2, 2, 2], "each image once, in even shares"
    assert {r.stem for r in training_records({"fold": "2/3"})} == everything - folds[1]
    assert {r.stem for r in training_records({"learn_all": True})} == everything
    for fold in ("4/3", "0/3", "2", "a/b", "1/1"):
        with pytest.raises(InputError, match=f"fold = '{fold}' is none. The second of four is written \"2/4\""):
            training_records({"fold": fold})


def test_folds_keep_the_images_of_a_patient_together() -> None:
    records = [Record("kermany", Modality.OCT, Path(f"DME-{patient}-{k}.png"), ("drusen",), {})
               for patient in range(7) for k in range(patient + 1)]
    folds = [{i.stem.split("-")[1] for i in fold_of(records, f"{k}/3")} for k in (1, 2, 3)]
    assert sorted(map(len, folds)) == [2, 2, 3] and len(set.union(*folds)) == 7
    assert sum(len(fold_of(records, f"{k}/3")) for k in (1, 2, 3)) == len(records)


def test_a_data_set_without_masks_is_refused(data: Path) -> None:
    for mask in data.rglob("masks/*/*.png"):
        mask.unlink()
    with pytest.raises(InputError, match=r'made has no masks: .*masks/drusen/scan\d\.png.*exclude = \["made"\]'):
        training_records({})


def test_a_mask_of_another_size_is_named(data: Path, tmp_path: Path) -> None:
    mask = data / "segmentation/made/masks/drusen" / f"{training_records(CONFIG)[0].stem}.png"
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"drusen.*the mask has \(5, 7\) pixels, its image \(96, 128\)"):
        train({**CONFIG, "steps": 1}, tmp_path / "a", write_clip(tmp_path / "clip"))


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    torch.save({"step": 3, "model": {}}, tmp_path / "clip" / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: holds no CLIP model"):
        load_clip(tmp_path / "clip" / "last.pt")
    with pytest.raises(InputError, match="has no tokenizer"):
        load_clip(clip, tmp_path)
    state = torch.load(clip, weights_only=True)
    state["arch"]["clip"]["embed_dim"] = 24
    torch.save(state, tmp_path / "clip" / "wide.pt")
    with pytest.raises(InputError, match=r"wide\.pt: its weights belong to another architecture"):
        load_clip(tmp_path / "clip" / "wide.pt")
    with pytest.raises(InputError, match=r"final\.pt: holds no mask head"):
        warm_start(_Head(), clip)
    torch.save({"segmenter": {"a": torch.zeros(3), "b": torch.zeros(1)}}, tmp_path / "head.pt")
    with pytest.raises(InputError, match=r"only 0 of 2 tensors fit"):
        warm_start(_Head(), tmp_path / "head.pt")


class _Head:
    def head_state_dict(self) -> dict[str, torch.Tensor]:
        return {"a": torch.zeros(2), "c": torch.zeros(1)}


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
])
def test_out_of_memory_names_the_lines_to_lower(error, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "big.toml"
    config.write_text("batch = 64\nmax_prompts = 9\n")

    def work() -> None:
        raise error

    assert run_stage(work, config) == 1
    text = capsys.readouterr().err
    assert "Out of memory. Lower one of these lines in" in text and "big.toml" in text
    assert text.index("batch = 64") < text.index("max_prompts = 9") and "last checkpoint" in text


def test_commands_end_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def fail(error: BaseException):
        def work() -> None:
            raise error
        return work

    assert run_stage(fail(InputError("x.png: is broken.")), tmp_path) == 1
    assert run_stage(fail(KeyboardInterrupt()), tmp_path) == 130
    assert run_stage(lambda: None, tmp_path) == 0
    assert capsys.readouterr().err.splitlines()[0] == "x.png: is broken."
    with pytest.raises(RuntimeError, match="a bug"):
        run_stage(fail(RuntimeError("a bug")), tmp_path)
