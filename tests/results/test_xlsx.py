"""Measurements as a spreadsheet, read again with openpyxl."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from napari_claps.errors import InputError
from napari_claps.results.export import export
from napari_claps.results.export import xlsx as export_xlsx
from tests.saved_results import BOXES, f_masks, write_result

openpyxl = pytest.importorskip("openpyxl", reason="the extra 'export' is not installed")


def test_three_sheets(tmp_path):
    write_result(tmp_path / "a")
    export(tmp_path / "a", tmp_path / "Tabelle ü.xlsx")
    book = openpyxl.load_workbook(tmp_path / "Tabelle ü.xlsx")
    assert book.sheetnames == ["measurements", "boxes", "provenance"]
    table = pd.read_csv(tmp_path / "a" / "measurements.csv", keep_default_na=False, na_values=[""])
    rows = list(book["measurements"].iter_rows(values_only=True))
    assert list(rows[0]) == list(table.columns) and len(rows) == len(table) + 1
    for row, expected in zip(rows[1:], table.itertuples(index=False), strict=True):
        for cell, value in zip(row, expected, strict=True):
            assert cell is None if value != value else cell == pytest.approx(value)
    column = rows[0].index("value")
    assert any(isinstance(row[column], float) for row in rows[1:])  # numbers, not texts
    boxes = list(book["boxes"].iter_rows(values_only=True))
    assert dict(zip(boxes[0], boxes[1], strict=True)) == {**vars(BOXES[0]), "source": "detector"}
    facts = dict(list(book["provenance"].iter_rows(values_only=True))[1:])
    assert facts["bundle.name"] == "claps-tiny" and json.loads(facts["spacing.mm"]) == [0.12, 0.0039, 0.0113]


def test_no_text_becomes_a_formula(tmp_path):
    evil = '=HYPERLINK("http://x.example","a b")'
    write_result(tmp_path / "a", masks={"drusen": f_masks()["drusen"], evil: f_masks()["retina"]})
    path = tmp_path / "a" / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"+note": "=1+1", "bell": "a\x07b"}), encoding="utf-8")
    export(tmp_path / "a", tmp_path / "a.xlsx")
    cells = [cell for sheet in openpyxl.load_workbook(tmp_path / "a.xlsx") for row in sheet.iter_rows() for cell in row]
    assert not [cell for cell in cells if cell.data_type == "f"]
    assert {"=1+1", "a\ufffdb"} <= {cell.value for cell in cells}
    assert evil in {cell.value for cell in cells}


def test_without_a_table_or_with_too_long_a_one(tmp_path, monkeypatch):
    write_result(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(export_xlsx, "MOST_ROWS", 3)
        with pytest.raises(InputError, match="more than the 3 rows of a sheet"):
            export(tmp_path / "a", tmp_path / "a.xlsx")
    (tmp_path / "a" / "measurements.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"measurements\.csv: cannot be read as a table"):
        export(tmp_path / "a", tmp_path / "a.xlsx")
    (tmp_path / "a" / "measurements.csv").unlink()
    with pytest.raises(InputError, match=r"has no measurements\.csv beside it"):
        export(tmp_path / "a", tmp_path / "a.xlsx")
    assert not (tmp_path / "a.xlsx").exists()
