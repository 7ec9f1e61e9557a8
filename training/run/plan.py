"""The plan of a recipe: its stages, as a TOML file describes them."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from training.run.config import load_config, merged

RECORDS = "recipe"
"""Folder, among those of the stages, of what is complete, and of configurations with further settings."""


@dataclass(frozen=True)
class Stage:
    """One command of a recipe; it writes into a folder of its own name.

    Parameters
    ----------
    name : str
    command : str
        Module to run, ``training.stages.train_segmenter``.
    outputs : tuple of str
        Files in its folder that must be there in the end.
    config : Path, optional
        Its configuration.
    settings : mapping
        Lines on top of the configuration.
    inputs : mapping
        Options that name files of earlier stages, ``init = "clip/final.pt"``, or lists of them.
    options : mapping
        All others: a value, a list of values, or true.
    out : mapping
        Option that names its own folder (``""``) or a file in it.
    processes : int
        More than one are started by torchrun.
    """

    name: str
    command: str
    outputs: tuple[str, ...] = ("final.pt",)
    config: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    out: Mapping[str, str] = field(default_factory=lambda: {"out": ""})
    processes: int = 1

    @property
    def needs(self) -> list[str]:
        """Names of the stages whose files it reads."""
        return list(dict.fromkeys(file.partition("/")[0] for files in self.inputs.values() for file in _listed(files)))

    def values(self) -> dict[str, Any] | None:
        """All lines of its configuration; None without one."""
        return None if self.config is None else merged(load_config(self.config), self.settings)

    def arguments(self, runs: Path) -> list[str]:
        """Its command line after the module's name; `runs` is the folder of all stages."""
        made: list[str] = []
        if self.config is not None:
            made += ["--config", str(runs / RECORDS / f"{self.name}.toml" if self.settings else self.config)]
        for option, files in self.inputs.items():
            made += [part for file in _listed(files) for part in (f"--{option}", str(runs / file))]
        for option, value in self.options.items():
            made += [f"--{option}"] if value is True else [
                part for one in _listed(value) for part in (f"--{option}", str(one))]
        for option, file in self.out.items():
            made += [f"--{option}", str(runs / self.name / file)]
        return made

    def command_line(self, runs: Path) -> list[str]:
        """The whole command."""
        python = [sys.executable, "-m"]
        if self.processes > 1:
            python += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes), "-m"]
        return [*python, self.command, *self.arguments(runs)]

    def write_settings(self, runs: Path) -> None:
        """Write the configuration that has the further settings, if there are any."""
        if self.config is not None and self.settings:
            content = {"base": str(self.config.resolve()), **self.settings}
            with atomic_path(runs / RECORDS / f"{self.name}.toml") as temporary:
                temporary.write_text(tomli_w.dumps(content), encoding="utf-8")


def read_plan(path: Path) -> list[Stage]:
    """Read the stages of a recipe, in their order.

    A stage with ``folds = 3`` is there three times, with 1, 2 and 3 for every ``{fold}``.

    Raises
    ------
    InputError
        If the file is none, or a stage is there twice, needs one that does not come before it, or has no
        configuration where it says.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        tables = [table for stage in content["stages"] for table in _in_folds(stage)]
        configs = path.parent / content.get("configs", ".")
        stages = [Stage(**{**table, "outputs": tuple(table.get("outputs", ("final.pt",))),
                           "config": configs / table["config"] if "config" in table else None}) for table in tables]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a recipe ({type(error).__name__}: {error}). A stage has these "
                         f"lines: {', '.join(f.name for f in fields(Stage))}, folds.") from error
    before: set[str] = {RECORDS}
    for stage in stages:
        if stage.name in before:
            raise InputError(f"{path}: the stage {stage.name} is there twice, or has a name that is taken.")
        if missing := [name for name in stage.needs if name not in before - {RECORDS}]:
            raise InputError(f"{path}: {stage.name} needs {', '.join(missing)}, which does not come before it.")
        if stage.config is not None and not stage.config.is_file():
            raise InputError(f"{path}: {stage.name} has the configuration {stage.config}, and there is none.")
        before.add(stage.name)
    return stages


def _in_folds(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The table as it is, or once for each of its folds."""
    rest = {k: v for k, v in table.items() if k != "folds"}
    if "folds" not in table:
        yield rest
    for fold in range(1, table.get("folds", 0) + 1):
        yield _filled(rest, str(fold))


def _filled(value: Any, fold: str) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, fold) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, fold) for v in value]
    return value.replace("{fold}", fold) if isinstance(value, str) else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
