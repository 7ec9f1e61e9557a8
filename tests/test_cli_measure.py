"""``claps measure``: folders, masks files and sessions, and how objects of volumes are counted."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd

from napari_claps.cli import main
from napari_claps.cli_measure import COUNTING
from napari_claps.io.export import export
from tests.saved_results import write_result


def one_with_a_gap() -> np.ndarray:
    """(4, 20, 30) masks of one object, which is missing in slice 1."""
    masks = np.zeros((4, 20, 30), np.uint16)
    masks[[0, 2], 2:6, 2:8] = 1
    return masks


def result(folder, masks, **facts):
    """Result folder whose provenance says `facts`, too."""
    write_result(folder, masks={"drusen": masks})
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return folder


def count(capsys, *arguments) -> float:
    assert main(["measure", *map(str, arguments)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    (value,) = table[(table["measure"] == "count") & table["slice"].isna()]["value"]
    return value


def test_the_result_says_how_to_count(tmp_path, capsys):
    for name, facts, found in (("a", {"linked": True}, 1), ("b", {"linked": False}, 2), ("c", {}, 2)):
        folder = result(tmp_path / name, one_with_a_gap(), **facts)
        assert count(capsys, folder) == count(capsys, folder / "masks.ome.tif") == found
        export(folder, tmp_path / f"{name}.claps.zip")
        assert count(capsys, tmp_path / f"{name}.claps.zip") == found
        assert count(capsys, folder, "--count", "number") == 1 and count(capsys, folder, "--count", "overlap") == 2


def test_table_has_eye_and_scale_of_the_result(tmp_path):
    folder = result(tmp_path / "eye", one_with_a_gap(), input={"laterality": "L"})
    assert main(["measure", str(folder), str(folder / "masks.ome.tif"), "-o", str(tmp_path / "t.csv")]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert set(table["eye"]) == {"L"} and set(table["scale_source"]) == {"file"} and set(table["image"]) == {"eye"}
    first = pd.read_csv(folder / "measurements.csv")
    assert set(first["measure"]) == set(table["measure"]) and len(table) == 2 * len(first)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_wrong_counting_and_no_result(tmp_path, capsys):
    assert main(["measure", "x", "--count", "nothing"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in COUNTING)
    assert main(["measure", str(tmp_path / "missing")]) == 2
    assert "missing: there is no such file or folder" in capsys.readouterr().err
