"""Checkpoints: written whole or not at all, read without running code from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from napari_claps.errors import InputError


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
