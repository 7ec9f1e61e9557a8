"""Measurements, boxes and provenance as one spreadsheet."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.io.optional import require
from napari_claps.results.saved_result import SavedResult

MOST_ROWS = 2**20 - 1
"""Rows below the header that a sheet can hold."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # XML has no place for them


def write_xlsx(result: SavedResult, path: Path) -> list[Path]:
    """Write the sheets ``measurements``, ``boxes`` and ``provenance``.

    Numbers stay numbers, and every text is a text: one that begins with ``=`` does not become a formula.

    Raises
    ------
    InputError
        If openpyxl is missing, or there are no measurements, or more than a sheet can hold.
    OutputError
        If the file cannot be written.
    """
    openpyxl = require("openpyxl", extra="export", what=f"{path}: writing XLSX")
    if result.table is None:
        raise InputError(
            f"{result.source}: has no measurements.csv beside it. Give a folder that claps segment wrote, or measure "
            "the masks with claps measure."
        )
    try:
        measurements = pd.read_csv(result.table, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(f"{result.table}: cannot be read as a table ({error}).") from error
    boxes = pd.DataFrame([asdict(box) | {"source": str(box.source)} for box in result.boxes])
    facts = pd.DataFrame(_flat(result.provenance), columns=["what", "value"])
    sheets = {"measurements": measurements, "boxes": boxes, "provenance": facts}
    if any(len(table) > MOST_ROWS for table in sheets.values()):
        raise InputError(f"{result.table}: has more than the {MOST_ROWS} rows of a sheet. Use the CSV itself.")
    book = openpyxl.Workbook(write_only=True)
    for name, table in sheets.items():
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"
        sheet.append([_cell(openpyxl, sheet, column) for column in table.columns])
        for row in table.itertuples(index=False):
            sheet.append([_cell(openpyxl, sheet, value) for value in row])
    with atomic_path(path) as temporary:
        book.save(temporary)
    return [path]


def _cell(openpyxl: Any, sheet: Any, value: Any) -> Any:
    if value is None or (isinstance(value, float) and value != value):
        return None
    cell = openpyxl.cell.WriteOnlyCell(sheet, _CONTROL.sub("\ufffd", value) if isinstance(value, str) else value)
    if isinstance(value, str):
        cell.data_type = "s"
    return cell


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested provenance as rows of name and text: ``spacing.mm``, ``[0.12, 0.0039, 0.0113]``."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append((f"{before}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows
