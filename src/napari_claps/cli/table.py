"""Tables that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV with six digits, whole or not at all, and say so.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from napari_claps.files.atomic import atomic_path

    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    print(f"Written: {path}")
