"""Lists that stand beside a result as small tables: what cannot be in an eye, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from napari_claps.files.csv_rows import write_rows
from napari_claps.trust.anatomy import Violation
from napari_claps.volumes.doubts import Doubt


def write_violations(violations: Iterable[Violation], path: str | Path) -> None:
    """Write one row per violation; a file with a header alone says that all was checked and nothing found.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_rows(path, ("slice", "structure", "reason", "y0", "x0", "y1", "x1"),
               ((v.slice_index, v.label, v.reason, *v.box) for v in violations))


def write_doubts(doubts: Iterable[Doubt], path: str | Path) -> None:
    """Write doubtful places as CSV, one row each.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_rows(path, ("slice", "structure", "instance", "reason", "severity", "z", "y", "x"),
               ((d.slice_index, d.label, d.instance, str(d.reason), f"{d.severity:.3f}",
                 *(f"{p:.1f}" for p in d.position)) for d in doubts))
