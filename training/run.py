"""A training run: folder, configuration, log, learning curves, checkpoints that resume."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from napari_claps.errors import InputError


def load_config(path: Path) -> dict[str, Any]:
    """Read a TOML configuration; the values can be any that the stage knows."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a training configuration ({error}).") from error


def save_atomically(state: Any, path: Path) -> None:
    """Write a checkpoint to a temporary name, then rename it."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `Run` (tensors and plain values only).

    Raises
    ------
    InputError
        If the file is missing, damaged, or holds pickled code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a checkpoint of this training ({error}).") from error


class Run:
    """One training run in a folder.

    Parameters
    ----------
    folder : Path
        Gets ``config.json``, ``log.jsonl``, ``curves.png``, ``last.pt`` (to
        resume) and ``final.pt`` (weights and architecture).
    config : dict
        All settings, stored with the git revision.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.config = config
        self._rows: list[dict[str, float]] = []
        self._bar: tqdm | None = None
        self._mean = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config["seed"])
        np.random.seed(config["seed"])
        revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        facts = {"config": config, "git": revision, "torch": torch.__version__, "device": self.device}
        (folder / "config.json").write_text(json.dumps(facts, indent=1))

    def resume(self, model: nn.Module, optimizer: Any, schedule: Any, rng: random.Random) -> int:
        """Load ``last.pt`` if there is one; returns the step to go on with."""
        path = self.folder / "last.pt"
        if not path.exists():
            return 0
        state = load_checkpoint(path)
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise InputError(f"{path}: belongs to another architecture ({' '.join(str(error).split())[:200]}). "
                             "Choose another --out folder.") from error
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        version, internal, gauss = json.loads(state["rng"])
        rng.setstate((version, tuple(internal), gauss))
        torch.set_rng_state(state["torch_rng"])
        return int(state["step"])

    def save(self, step: int, model: nn.Module, optimizer: Any, schedule: Any, rng: random.Random) -> None:
        """Write ``last.pt`` and the learning curves."""
        save_atomically({
            "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(), "rng": json.dumps(rng.getstate()), "torch_rng": torch.get_rng_state(),
        }, self.folder / "last.pt")
        self.draw_curves()

    def finish(self, model: nn.Module, arch: dict[str, Any]) -> Path:
        """Write ``final.pt``: architecture and weights without the optimiser."""
        path = self.folder / "final.pt"
        save_atomically({"arch": arch, "model": model.state_dict(), "config": self.config}, path)
        self.draw_curves()
        return path

    def steps(self, first: int, last: int) -> Iterator[int]:
        """Step numbers with a progress bar."""
        self._bar = tqdm(range(first, last), initial=first, total=last, mininterval=10)
        yield from self._bar

    def is_due(self, step: int, every: int, last: int) -> bool:
        """Whether to save after this step."""
        return (step + 1) % every == 0 or step + 1 == last

    def log(self, step: int, **values: float) -> None:
        """Append a row to ``log.jsonl``."""
        row = {"step": step, "time": round(time.time(), 2), **values}
        self._rows.append(row)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._bar is not None and "loss" in values:
            self._mean = values["loss"] if not self._mean else 0.98 * self._mean + 0.02 * values["loss"]
            self._bar.set_postfix(loss=f"{self._mean:.3f}", refresh=False)

    def draw_curves(self) -> None:
        """Write ``curves.png``: every logged value against the step."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        lines = (self.folder / "log.jsonl").read_text().splitlines() if (self.folder / "log.jsonl").exists() else []
        rows = [json.loads(line) for line in lines]
        names = sorted({n for r in rows for n in r} - {"step", "time"})
        if not names:
            return
        figure, axes = plt.subplots(len(names), 1, figsize=(7, 2.2 * len(names)), squeeze=False)
        for axis, name in zip(axes[:, 0], names, strict=True):
            points = [(r["step"], r[name]) for r in rows if name in r]
            x, y = zip(*points, strict=True)
            axis.plot(x, y, lw=0.4, color="0.7")
            window = max(1, len(y) // 40)
            smooth = np.convolve(y, np.ones(window) / window, mode="valid")
            axis.plot(x[window - 1:], smooth, lw=1.5)
            axis.set_ylabel(name)
        axes[-1, 0].set_xlabel("step")
        figure.tight_layout()
        figure.savefig(self.folder / "curves.png", dpi=110)
        plt.close(figure)
