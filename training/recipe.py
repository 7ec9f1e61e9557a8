"""All stages of a bundle, one after the other: what is complete is skipped, what was stopped goes on.

``python -m training.recipe claps-tiny --out runs`` runs ``training/recipes/claps-tiny.toml``. Each stage has a folder
in `runs`, and ``runs/recipe/STAGE.json`` once it is complete, with what it was made from; the bundle is in the end
``runs/claps-tiny``. ``--dry-run`` only says what would be done, ``--only STAGE`` does one stage.

A stage whose configuration, command or inputs are no longer those that it was made from is not made again unasked:
hours of computing may lie in its folder. The command then names the folders to remove.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from training.run.command import run_command
from training.run.plan import RECORDS, Stage, read_plan
from training.run.provenance import git_revision

ROOT = Path(__file__).parents[1]
"""Of the repository, where commands are started."""


class Recipe:
    """Stages in a folder.

    Parameters
    ----------
    stages : sequence of Stage
    runs : Path
        Folder of all stages.
    """

    def __init__(self, stages: Sequence[Stage], runs: Path) -> None:
        self.stages, self.runs = list(stages), runs
        self._known: dict[str, dict[str, Any]] = {}

    def record(self, name: str) -> dict[str, Any]:
        """What ``recipe/STAGE.json`` says; nothing if the stage is not complete.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        path = self.runs / RECORDS / f"{name}.json"
        if name not in self._known and path.is_file():
            try:
                self._known[name] = json.loads(path.read_text(encoding="utf-8"))
                self._known[name]["outputs"].items()
            except (ValueError, KeyError, AttributeError) as error:
                raise InputError(f"{path}: is damaged ({error}). Remove it to run {name} again.") from error
        return self._known.get(name, {})

    def made_from(self, stage: Stage) -> dict[str, Any]:
        """What decides how a stage comes out: its command, configuration and inputs (hashes of complete stages)."""
        arguments = [a.removeprefix(f"{self.runs}/") for a in stage.arguments(self.runs)]
        if stage.config is not None:  # what it says counts, not where it lies
            arguments = arguments[2:]
        inputs = {name: self.record(name).get("outputs") for name in stage.needs}
        return json.loads(json.dumps({"command": stage.command, "arguments": arguments, "config": stage.values(),
                                      "inputs": inputs}))

    def is_complete(self, stage: Stage) -> bool:
        """Whether it has been made, and all its files are still there."""
        return bool(self.record(stage.name)) and all(
            (self.runs / stage.name / file).is_file() for file in stage.outputs)

    def outdated(self) -> list[str]:
        """Complete stages that would be made otherwise by now, and all that were made from these."""
        names: list[str] = []
        for stage in filter(self.is_complete, self.stages):
            if {*names} & {*stage.needs} or self.record(stage.name)["made_from"] != self.made_from(stage):
                names.append(stage.name)
        return names

    def state(self, stage: Stage) -> str:
        """In words."""
        if self.is_complete(stage):
            return f"complete ({self.record(stage.name)['seconds'] / 60:.0f} min)"
        return "goes on" if (self.runs / stage.name / "last.pt").is_file() else "to do"

    def run(self, stage: Stage, start: Callable[[list[str]], int]) -> None:
        """Run a stage whose inputs are complete, and record it.

        Raises
        ------
        InputError
            If inputs are missing, it fails, or leaves less than it should.
        """
        waiting = [s.name for s in self.stages if s.name in stage.needs and not self.is_complete(s)]
        if waiting:
            raise InputError(f"{stage.name} needs {', '.join(waiting)}, which is not complete. Run it first.")
        folder = self.runs / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        stage.write_settings(self.runs)
        begin = time.time()
        if code := start(stage.command_line(self.runs)):
            raise InputError(f"{stage.name} ended with exit code {code}. The same command goes on with it.")
        if lacking := [file for file in stage.outputs if not (folder / file).is_file()]:
            raise InputError(f"{stage.name} ended, but {', '.join(lacking)} is not in {folder}.")
        found = {"made_from": self.made_from(stage), "git": git_revision(), "seconds": round(time.time() - begin, 1),
                 "outputs": {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in stage.outputs}}
        with atomic_path(self.runs / RECORDS / f"{stage.name}.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
        self._known[stage.name] = found


def start_command(command: list[str]) -> int:
    """Run a command from the root of the repository; returns its exit code. It ends with this process."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def run_recipe(recipe: Recipe, *, only: Sequence[str] = (), dry_run: bool = False,
               start: Callable[[list[str]], int] = start_command) -> None:
    """Run all stages in their order, or only those named, and say so.

    Raises
    ------
    InputError
        If there is no stage of that name, a stage is outdated, or one fails.
    """
    names = [stage.name for stage in recipe.stages]
    if unknown := sorted({*only} - {*names}):
        raise InputError(f"--only {', '.join(unknown)}: no such stage. There are: {', '.join(names)}.")
    if outdated := recipe.outdated():
        folders = " ".join(shlex.quote(str(recipe.runs / part)) for name in outdated
                           for part in (name, f"{RECORDS}/{name}.json"))
        raise InputError(f"Made from another configuration, command or input than there is now: {', '.join(outdated)}. "
                         f"Choose another --out, or remove them:\nrm -r {folders}")
    for number, stage in enumerate(recipe.stages, start=1):
        if only and stage.name not in only:
            continue
        said = f"[{number}/{len(names)}] {stage.name}"
        if dry_run or recipe.is_complete(stage):
            print(f"{said}: {recipe.state(stage)}", flush=True)
        if dry_run and not recipe.is_complete(stage):
            print(f"    {shlex.join(['python', *stage.command_line(recipe.runs)[1:]])}")
        if not dry_run and not recipe.is_complete(stage):
            print(f"{said}: running{', from its last checkpoint' * (recipe.state(stage) == 'goes on')}", flush=True)
            recipe.run(stage, start)
            print(f"{said}: {recipe.state(stage)}", flush=True)


def plan_of(name: str) -> Path:
    """File of a recipe by its name, or the file itself.

    Raises
    ------
    InputError
        If there is none.
    """
    path = Path(name) if name.endswith(".toml") else ROOT / "training" / "recipes" / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in (ROOT / "training" / "recipes").glob("*.toml"))
        raise InputError(f"{name}: there is no such recipe. There are: {', '.join(known)}; or give a .toml file.")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a recipe, such as claps-tiny, or its TOML file")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all stages (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--only", action="append", default=[], metavar="STAGE", help="this stage; may be repeated")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stage ends with the recipe
    try:
        return run_command(lambda: run_recipe(Recipe(read_plan(plan_of(a.recipe)), a.out.resolve()), only=a.only,
                                              dry_run=a.dry_run))
    except KeyboardInterrupt:
        print("Stopped. The same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
