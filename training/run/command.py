"""The end of every command of the training: what went wrong, in words, and what to change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from napari_claps.errors import ClapsError, DeviceError, InputError
from training.run.config import load_config
from training.run.parallel import Processes

COSTLY = ("batch", "views", "max_prompts", "synthetic", "cache_size")
"""Lines of a configuration that take memory, the best one to lower first."""


def run_stage(work: Callable[[], object], config: Path) -> int:
    """Do the work of a command; returns its exit code.

    Errors that the user can do something about are printed without a traceback. A stopped run says how it goes on.

    Parameters
    ----------
    work : callable
    config : Path
        The configuration, whose lines are named when memory runs out.
    """
    try:
        work()
    except ClapsError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint (last.pt).", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"{memory_advice(config)}", file=sys.stderr)
        return 1
    finally:
        Processes.leave()
    return 0


def run_command(work: Callable[[], object]) -> int:
    """Do the work of a command without a configuration; returns its exit code. Errors have no traceback."""
    try:
        work()
    except ClapsError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, of CUDA or of the CPU allocator says that memory ran out."""
    words = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in words for text in ("out of memory", "can't allocate memory", "cannot allocate memory"))


def memory_advice(config: Path) -> DeviceError:
    """The error to show: which lines of the configuration to lower."""
    try:
        values = load_config(config)
    except InputError:
        values = {}
    lines = [f"{name} = {values[name]}" for name in COSTLY if name in values]
    advice = f"Lower one of these lines in {config}, the first one first: {'; '.join(lines)}." if lines else \
        f"Lower the batch in {config}."
    return DeviceError(f"Out of memory. {advice} The same command then goes on from the last checkpoint.")
