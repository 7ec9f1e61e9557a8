"""A training run: folder, configuration, log, learning curves, checkpoints that resume."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from training.run.checkpoint import load_checkpoint, save_atomically
from training.run.parallel import Processes, number_format
from training.run.provenance import git_revision, write_data_list


class Run:
    """One training run in a folder; of several processes the first one writes.

    Parameters
    ----------
    folder : Path
        Gets ``config.json``, ``data.csv`` (the files used, with hashes),
        ``log.jsonl``, ``curves.png``, ``last.pt`` (to resume) and ``final.pt``
        (weights and architecture).
    config : dict
        All settings, stored with the git revision. Read here: ``seed``;
        ``precision``, one of `training.run.parallel.PRECISIONS`; ``minutes``, after
        which the run saves and stops (never, if missing).
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.processes = Processes.join()
        self.device = self.processes.device
        self.config = config
        self.number_format = number_format(config.get("precision", "auto"), self.device)
        self._deadline = time.monotonic() + 60 * float(config.get("minutes", "inf"))
        self._over = False
        self._bar: tqdm | None = None
        self._mean = 0.0
        self._drawn = 0
        torch.manual_seed(config["seed"])
        np.random.seed(config["seed"])
        self._facts = {"config": config, "git": git_revision(), "torch": torch.__version__, "device": self.device,
                       "processes": self.processes.count, "precision": str(self.number_format).removeprefix("torch.")}
        if self.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            self._keep_earlier_facts()
            self._write_facts()

    @property
    def is_first(self) -> bool:
        """Whether this process logs and saves."""
        return self.processes.rank == 0

    def record_data(self, files: Iterable[Path]) -> None:
        """Write ``data.csv``, and the hash of it into ``config.json``."""
        if self.is_first:
            self._facts["data"] = write_data_list(self.folder / "data.csv", files)
            self._write_facts()

    def parallel(self, module: nn.Module, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """What a step computes, with gradients averaged over all processes (`Processes.spread`)."""
        return self.processes.spread(module, function)

    def autocast(self) -> torch.autocast:
        """Compute the networks within it in the run's number format; losses belong outside, in float32."""
        return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16,
                              enabled=self.number_format is torch.bfloat16)

    def resume(self, model: nn.Module, optimizer: Any, schedule: Any, rng: random.Random) -> int:
        """Load ``last.pt`` if there is one; returns the step to go on with.

        Each process gets the random numbers that it had; a new one gets numbers of its own.

        Raises
        ------
        InputError
            If it belongs to another architecture.
        """
        path, rank = self.folder / "last.pt", self.processes.rank
        state = load_checkpoint(path) if path.exists() else {"step": 0, "others": []}
        if path.exists():
            try:
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
            except (RuntimeError, ValueError) as error:
                raise InputError(f"{path}: belongs to another architecture ({' '.join(str(error).split())[:200]}). "
                                 "Choose another --out folder.") from error
            planned = getattr(schedule, "total_steps", None)
            schedule.load_state_dict(state["schedule"])
            if getattr(schedule, "total_steps", None) != planned:
                raise InputError(f"{path}: its learning rates were planned for {schedule.total_steps} steps, not for "
                                 f"{planned}. Set steps = {schedule.total_steps}, or choose another --out folder.")
        step, states = int(state["step"]), [state, *state.get("others", [])]
        if path.exists() and rank < len(states):
            version, internal, gauss = json.loads(states[rank]["rng"])
            rng.setstate((version, tuple(internal), gauss))
            torch.set_rng_state(states[rank]["torch_rng"])
        elif rank:
            rng.seed(f"{self.config['seed']}/{rank}/{step}")
            torch.manual_seed(rng.getrandbits(40))
        self._drop_rows_from(step)
        return step

    def save(self, step: int, model: nn.Module, optimizer: Any, schedule: Any, rng: random.Random) -> None:
        """Write ``last.pt`` and the learning curves; every process calls it."""
        mine = {"rng": json.dumps(rng.getstate()), "torch_rng": torch.get_rng_state()}
        others = self.processes.gather(mine)[1:]
        if self.is_first:
            save_atomically({
                "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(), **mine, "others": others,
            }, self.folder / "last.pt")
            self.draw_curves()

    def finish(self, model: nn.Module, arch: dict[str, Any]) -> Path:
        """Write ``final.pt``: architecture and weights without the optimiser."""
        return self.write_final({"arch": arch, "model": model.state_dict()})

    def write_final(self, content: dict[str, Any]) -> Path:
        """Write ``final.pt`` with the configuration and the hash of the data."""
        path = self.folder / "final.pt"
        if self.is_first:
            save_atomically({**content, "config": self.config, "data": self._facts.get("data", {})}, path)
            self.draw_curves()
        return path

    def steps(self, first: int, last: int) -> Iterator[int]:
        """Step numbers with a progress bar, until the time is up."""
        self._bar = tqdm(range(first, last), initial=first, total=last, mininterval=10, disable=not self.is_first)
        for step in self._bar:
            yield step
            if self._over:
                break

    def is_due(self, step: int, every: int, last: int) -> bool:
        """Whether to save after this step: at intervals, at the end, and when the time is up."""
        if "minutes" in self.config:  # the clocks of the processes differ
            self._over = self.processes.share(time.monotonic() >= self._deadline)
        return (step + 1) % every == 0 or step + 1 == last or self._over

    def log(self, step: int, **values: float) -> None:
        """Append a row to ``log.jsonl``."""
        if not self.is_first:
            return
        row = {"step": step, "time": round(time.time(), 2), **values}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._bar is not None and "loss" in values:
            self._mean = values["loss"] if not self._mean else 0.98 * self._mean + 0.02 * values["loss"]
            self._bar.set_postfix(loss=f"{self._mean:.3f}", refresh=False)

    def draw_curves(self) -> None:
        """Write ``curves.png``: every logged value against the step; nothing if no row has come since."""
        from matplotlib.figure import Figure

        rows = self._rows()
        names = sorted({n for r in rows for n in r} - {"step", "time"})
        if not names or len(rows) == self._drawn:
            return
        height = 2.2 * len(names)  # inches
        figure = Figure(figsize=(7, height))
        axes = figure.subplots(len(names), squeeze=False)
        figure.subplots_adjust(left=0.13, right=0.98, bottom=0.5 / height, top=1 - 0.15 / height)
        for axis, name in zip(axes[:, 0], names, strict=True):
            points = [(r["step"], r[name]) for r in rows if name in r]
            x, y = zip(*points, strict=True)
            axis.plot(x, y, lw=0.4, color="0.7")
            window = max(1, len(y) // 40)
            smooth = np.convolve(y, np.ones(window) / window, mode="valid")
            axis.plot(x[window - 1:], smooth, lw=1.5)
            axis.set_ylabel(name)
        axes[-1, 0].set_xlabel("step")
        with atomic_path(self.folder / "curves.png") as temporary:
            figure.savefig(temporary, dpi=110, format="png")
        self._drawn = len(rows)

    def _rows(self) -> list[dict[str, float]]:
        path = self.folder / "log.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a run that was killed while it wrote
                continue
        return rows

    def _drop_rows_from(self, step: int) -> None:
        """Forget what a killed run logged after its last checkpoint: these steps are done again."""
        path = self.folder / "log.jsonl"
        if self.is_first and path.exists():
            with atomic_path(path) as temporary:
                temporary.write_text("".join(json.dumps(r) + "\n" for r in self._rows() if r["step"] < step),
                                     encoding="utf-8")

    def _keep_earlier_facts(self) -> None:
        """A run that goes on under another configuration or revision keeps what it began with."""
        path = self.folder / "config.json"
        if not path.exists() or not (self.folder / "last.pt").exists():
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = before.pop("earlier", [])
        changed = any(before.get(name) != self._facts[name] for name in ("config", "git"))
        self._facts["earlier"] = [*earlier, before] if changed else earlier

    def _write_facts(self) -> None:
        with atomic_path(self.folder / "config.json") as temporary:
            temporary.write_text(json.dumps(self._facts, indent=1), encoding="utf-8")
