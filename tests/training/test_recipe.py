"""A recipe runs its stages in their order, skips what is complete, and goes on where it was stopped."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from napari_claps.errors import InputError
from tests.training_data import CLIP_CONFIG, CONFIG, write_data
from training.recipe import ROOT, Recipe, plan_of, run_recipe
from training.run.config import load_config
from training.run.plan import Stage, read_plan

RECIPES = sorted((ROOT / "training" / "recipes").glob("*.toml"))
PLAN: dict[str, Any] = {"stages": [
    {"name": "first", "command": "first", "config": "a.toml"},
    {"name": "fold{fold}", "command": "fold", "folds": 2, "config": "a.toml", "settings": {"fold": "{fold}/2"},
     "inputs": {"init": "first/final.pt"}},
    {"name": "both", "command": "both", "inputs": {"rows": ["fold1/final.pt", "fold2/final.pt"]},
     "options": {"limit": 3, "no-boxes": True}, "out": {"out": "pairs.json"}, "outputs": ["pairs.json"]},
]}


def write_plan(folder: Path, plan: dict[str, Any], **configs: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in configs.items():
        (folder / f"{name}.toml").write_text(tomli_w.dumps(values))
    (folder / "recipe.toml").write_text(tomli_w.dumps(plan))
    return folder / "recipe.toml"


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[], Recipe]:
    write_plan(tmp_path, PLAN, a={"steps": 1})
    return lambda: Recipe(read_plan(tmp_path / "recipe.toml"), tmp_path / "runs")


class Commands:
    """Notes what is started, and leaves a file as the stage would."""

    def __init__(self, fail: str = "") -> None:
        self.started: list[str] = []
        self._fail = fail

    def __call__(self, command: list[str]) -> int:
        module, *arguments = command[command.index("-m") + 1:]
        self.started.append(module)
        out = Path(arguments[arguments.index("--out") + 1])
        if module == self._fail:
            return 3
        (out if out.suffix else out / "final.pt").write_text(" ".join(arguments))
        return 0


def test_stages_run_in_order_and_once(recipe: Callable[[], Recipe], tmp_path: Path,
                                      capsys: pytest.CaptureFixture) -> None:
    first = Commands(fail="both")
    with pytest.raises(InputError, match="both ended with exit code 3. The same command goes on with it"):
        run_recipe(recipe(), start=first)
    assert first.started == ["first", "fold", "fold", "both"]
    again = Commands()
    run_recipe(recipe(), start=again)
    assert again.started == ["both"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:] == ["[1/4] first: complete (0 min)", "[2/4] fold1: complete (0 min)",
                          "[3/4] fold2: complete (0 min)", "[4/4] both: running", "[4/4] both: complete (0 min)"]
    runs = tmp_path / "runs"
    assert (runs / "both" / "pairs.json").read_text().split() == [
        "--rows", str(runs / "fold1/final.pt"), "--rows", str(runs / "fold2/final.pt"), "--limit", "3", "--no-boxes",
        "--out", str(runs / "both/pairs.json")]
    assert load_config(runs / "recipe" / "fold2.toml") == {"steps": 1, "fold": "2/2"}


def test_nothing_is_done_in_a_dry_run(recipe: Callable[[], Recipe], tmp_path: Path,
                                      capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "runs" / "fold1").mkdir(parents=True)
    (tmp_path / "runs" / "fold1" / "last.pt").touch()
    run_recipe(recipe(), dry_run=True, start=Commands(fail="first"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["[1/4] first: to do", "[2/4] fold1: goes on", "[3/4] fold2: to do", "[4/4] both: to do"]
    assert lines[1] == f"    python -m first --config {tmp_path}/a.toml --out {tmp_path}/runs/first"
    assert not (tmp_path / "runs" / "recipe").exists()


def test_one_stage_waits_for_what_it_needs(recipe: Callable[[], Recipe]) -> None:
    with pytest.raises(InputError, match="fold1 needs first, which is not complete. Run it first"):
        run_recipe(recipe(), only=["fold1"], start=Commands())
    with pytest.raises(InputError, match="--only fold: no such stage. There are: first, fold1, fold2, both"):
        run_recipe(recipe(), only=["fold"], start=Commands())
    some = Commands()
    run_recipe(recipe(), only=["first", "fold2"], start=some)
    assert some.started == ["first", "fold"]


def test_what_was_made_otherwise_is_named_with_all_that_rests_on_it(recipe: Callable[[], Recipe],
                                                                   tmp_path: Path) -> None:
    run_recipe(recipe(), start=Commands())
    plan = json.loads(json.dumps(PLAN))
    plan["stages"][1]["settings"]["steps"] = 2
    write_plan(tmp_path, plan)
    with pytest.raises(InputError, match=r"input than there is now: fold1, fold2, both\. .*\nrm -r .*/runs/fold1 .*"):
        run_recipe(recipe(), start=Commands())
    write_plan(tmp_path, PLAN, a={"steps": 2})
    with pytest.raises(InputError, match="there is now: first, fold1, fold2, both"):
        run_recipe(recipe(), start=Commands())
    write_plan(tmp_path, PLAN, a={"steps": 1})
    run_recipe(recipe(), start=Commands(fail="first"))  # all is complete again
    (tmp_path / "runs" / "fold1" / "final.pt").unlink()
    again = Commands()
    run_recipe(recipe(), start=again)
    assert again.started == ["fold"], "made again alike, so what rests on it stays"
    (tmp_path / "runs" / "recipe" / "both.json").write_text("{")
    with pytest.raises(InputError, match=r"both\.json: is damaged .*Remove it to run both again"):
        run_recipe(recipe(), start=Commands())


def test_a_stage_that_leaves_nothing_is_not_complete(recipe: Callable[[], Recipe]) -> None:
    with pytest.raises(InputError, match=r"first ended, but final\.pt is not in "):
        run_recipe(recipe(), start=lambda command: 0)


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "first"}, "the stage first is there twice"), ({"name": "recipe"}, "has a name that is taken"),
    ({"inputs": {"init": "later/final.pt"}}, "x needs later, which does not come before it"),
    ({"config": "b.toml"}, "x has the configuration .*b.toml, and there is none"),
    ({"colour": "red"}, r"cannot be read as a recipe \(TypeError.*colour.* A stage has these lines: name, command"),
])
def test_wrong_plans_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    stages = [*PLAN["stages"], {"name": "x", "command": "x", **change}]
    with pytest.raises(InputError, match=message):
        read_plan(write_plan(tmp_path, {"stages": stages}, a={}))


def test_recipes_are_found_by_name() -> None:
    assert plan_of("claps-tiny") in RECIPES
    with pytest.raises(InputError, match=r"claps-large: there is no such recipe. There are: .*claps-tiny"):
        plan_of("claps-large")


def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    line = Stage("x", "training.stages.train_segmenter", processes=2).command_line(tmp_path)
    assert line[1:] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
                        "training.stages.train_segmenter", "--out", str(tmp_path / "x")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_commands_of_shipped_recipes_know_their_options(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Read(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, arguments: Any = None, namespace: Any = None) -> None:
        parse(self, arguments, namespace)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    for stage in read_plan(path):
        monkeypatch.setattr(sys, "argv", [stage.command, *stage.arguments(Path("runs"))])
        with pytest.raises(Read):
            importlib.import_module(stage.command).main()
        assert stage.config is None or {"seed", "steps"} <= (stage.values() or {}).keys()


def test_every_configuration_is_one_of_a_stage() -> None:
    """What is no longer part of a recipe lies in the history."""
    used = {s.config.resolve() for path in RECIPES for s in read_plan(path) if s.config}
    for config in [*used]:
        while base := (ROOT.joinpath(config).read_text().partition('base = "')[2].partition('"')[0]):
            config = (config.parent / base).resolve()
            used.add(config)
    assert used == {p.resolve() for p in (ROOT / "training" / "configs").glob("*.toml")}


TINY: list[dict[str, Any]] = [
    {"name": "clip", "command": "tests.tiny_pretrain_clip", "config": "clip.toml"},
    {"name": "segmenter", "command": "training.stages.train_segmenter", "config": "segmenter.toml",
     "inputs": {"init": "clip/final.pt"}},
    {"name": "more", "command": "training.stages.train_segmenter", "config": "segmenter.toml",
     "settings": {"steps": 2, "fold": "1/2"}, "inputs": {"init": "segmenter/final.pt", "warm": "segmenter/final.pt"}},
    {"name": "align", "command": "training.stages.align_clip", "config": "align.toml",
     "inputs": {"init": "segmenter/final.pt"}},
    {"name": "detector", "command": "training.stages.train_detector", "config": "detector.toml",
     "inputs": {"init": "segmenter/final.pt"}, "outputs": ["final.pt", "detector.json"]},
    {"name": "bundle", "command": "training.stages.export", "outputs": ["bundle.toml"],
     "inputs": {"clip": "align/final.pt", "segmenter": "more/final.pt", "detector": "detector/final.pt",
                "box-thresholds": "detector/detector.json"}},
    {"name": "thresholds", "command": "training.choose.thresholds", "inputs": {"bundle": "bundle"},
     "options": {"dataset": "made", "limit": 2}, "out": {"out": "pairs.json"}, "outputs": ["pairs.json"]},
    {"name": "calibrated", "command": "training.choose.calibrate", "out": {"to": "pairs.json"},
     "inputs": {"bundle": "bundle", "pairs": "thresholds/pairs.json"}, "options": {"limit": 2},
     "outputs": ["pairs.json"]},
    {"name": "report", "command": "training.report.evaluate", "inputs": {"bundle": "bundle"},
     "outputs": ["summary.json"]},
    {"name": "tiny", "command": "training.stages.export", "outputs": ["bundle.toml"], "options": {"name": "tiny"},
     "inputs": {"clip": "align/final.pt", "segmenter": "more/final.pt", "detector": "detector/final.pt",
                "pairs": "calibrated/pairs.json", "report": "report"}},
]
"""All stages of a bundle, on made-up images."""

STEPS = 30


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a busy machine is no failure
def test_a_killed_recipe_goes_on_to_its_bundle(tmp_path: Path) -> None:
    """Real commands in processes of their own; all of them are killed in the middle of the second stage."""
    from napari_claps.models.bundles.bundle import load_bundle

    data = write_data(tmp_path / "data", count=14)
    table = (data / "segmentation.csv").read_text().splitlines()
    table[-2:] = [line.replace(",train,", ",val,") for line in table[-2:]]
    (data / "segmentation.csv").write_text("\n".join(table) + "\n")
    segmenter = {**CONFIG, "steps": STEPS, "save_every": 3}
    path = write_plan(tmp_path, {"stages": TINY}, clip=CLIP_CONFIG, segmenter=segmenter,
                      align={"seed": 0, "per_group": 3, "batch": 4, "steps": 3, "lr": 1e-3},
                      detector={**CONFIG, "steps": 2, "weight_decay": 1e-4, "max_prompts": 3, "detector": {
                          "queries": 6, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32}})
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "training.recipe", str(path), "--out", str(runs)]
    environment = {**os.environ, "CLAPS_DATA": str(data), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

    killed = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    while killed.poll() is None and not (runs / "segmenter" / "last.pt").exists():
        time.sleep(0.02)
    assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert (runs / "recipe" / "clip.json").exists() and not (runs / "recipe" / "segmenter.json").exists()

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert said[0].startswith("[1/10] clip: complete")
    assert said[1] == "[2/10] segmenter: running, from its last checkpoint"
    assert [line.split()[1] for line in said[1::2]] == [f"{stage['name']}:" for stage in TINY[1:]]
    steps = [json.loads(line)["step"] for line in (runs / "segmenter" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(STEPS)), "no step is lost or done twice"
    bundle = load_bundle(str(runs / "tiny"), device="cpu")
    assert bundle.manifest.name == "tiny" and bundle.manifest.training["segmenter"]["config"]["fold"] == "1/2"
    run_recipe(Recipe(read_plan(path), runs), start=Commands(fail="any"))
