"""A prompt check as files: the matrix as a picture, and every trial as a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from napari_claps.files.atomic import atomic_path
from napari_claps.files.csv_rows import write_rows
from napari_claps.results.overlay.matrix import matrix_picture
from napari_claps.trust.prompt_check import PromptCheck


def prompt_check_picture(check: PromptCheck) -> np.ndarray:
    """Draw the matrix of a check; (y, x, 3) uint8 RGB."""
    values, columns = check.matrix
    return matrix_picture(
        values, check.targets, columns, marked=check.suspects,
        title=f"Does the mask depend on the text? {Path(check.source).name}, slice {check.slice_index}",
        caption="Dice between the mask of a target (row) and that for another text (column), with the thresholds "
                "of the target. Good: 1 at its own text, near 0 elsewhere. -: both empty. Framed: agrees too much.",
    )  # fmt: skip


def write_prompt_check(check: PromptCheck, folder: Path) -> None:
    """Write ``prompt-check.png`` and ``prompt-check.csv`` into an existing `folder`.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    with atomic_path(folder / "prompt-check.png") as path:
        Image.fromarray(prompt_check_picture(check)).save(path)
    write_rows(folder / "prompt-check.csv",
               ("slice", "target", "kind", "name", "text", "pixels", "dice", "agrees_too_much"),
               ((check.slice_index, t.target, t.kind, t.name, t.text, t.pixels,
                 "" if np.isnan(t.dice) else f"{t.dice:.4f}", str(t.is_suspect).lower()) for t in check.trials))
