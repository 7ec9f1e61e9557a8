"""``claps measure``: folders, masks files and sessions, and how objects of volumes are counted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_claps.cli import main
from napari_claps.cli.measure import COUNTING
from napari_claps.errors import InputError
from napari_claps.results.export import export
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


def test_slices_that_nobody_looked_at_are_not_absent(tmp_path, capsys):
    folder = result(tmp_path / "eye", one_with_a_gap(), slices=[0, 1])
    export(folder, tmp_path / "eye.claps.zip")
    for source in (folder, tmp_path / "eye.claps.zip"):
        assert main(["measure", str(source)]) == 0
        table = pd.read_csv(io.StringIO(capsys.readouterr().out))
        assert set(table["slice"].dropna()) == {0, 1, 2}, "the object in slice 2 was painted by somebody"
        whole = table[table["slice"].isna()].set_index(["measure", "unit"])
        assert set(whole["coverage"]) == {0.75}
        assert np.isnan(whole.loc[("volume", "mm3"), "value"]) and np.isnan(whole.loc[("count", "n"), "value"])


def test_the_image_has_the_name_that_it_has_in_the_first_table(tmp_path, capsys):
    folder = result(tmp_path / "eye", one_with_a_gap())
    assert main(["measure", str(folder)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(table["image"]) == set(pd.read_csv(folder / "measurements.csv")["image"]) == {"eye.dcm"}


def test_one_bad_result_does_not_stop_the_others(tmp_path, capsys):
    folder = result(tmp_path / "eye", one_with_a_gap())
    assert main(["measure", str(tmp_path / "missing"), str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "missing: there is no such file or folder" in err and len(pd.read_csv(io.StringIO(out)))
    assert main(["measure", str(tmp_path / "missing"), str(tmp_path / "none"), "-o", str(tmp_path / "t.csv")]) == 1
    assert not (tmp_path / "t.csv").exists()


def test_a_closed_folder_is_one_line(tmp_path, capsys, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", closed)  # chmod would not stop root
    assert main(["measure", str(tmp_path / "closed" / "x")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "x: must not be looked at" in said and "unexpected" not in said


@pytest.mark.parametrize("dtype, factor", [(np.float32, 0.25), (np.uint32, 2**20), (np.int16, -1)])
def test_what_is_no_mask_is_refused(tmp_path, capsys, dtype, factor):
    planes = (one_with_a_gap().astype(float) * factor).astype(dtype)
    tifffile.imwrite(tmp_path / "m.ome.tif", planes[None], photometric="minisblack",
                     metadata={"axes": "CZYX", "Channel": {"Name": ["drusen"]}})  # fmt: skip
    assert main(["measure", str(tmp_path / "m.ome.tif")]) == 2
    assert f"has {np.dtype(dtype)} numbers from " in capsys.readouterr().err
    with pytest.raises(InputError, match="masks hold whole numbers"):
        export(tmp_path / "m.ome.tif", tmp_path / "m.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["m.ome.tif"]


def test_whole_numbers_of_another_type_are_masks(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "m.ome.tif", one_with_a_gap()[None].astype(np.float32), photometric="minisblack",
                     metadata={"axes": "CZYX", "Channel": {"Name": ["drusen"]}})  # fmt: skip
    assert count(capsys, tmp_path / "m.ome.tif") == 2


def test_wrong_counting_and_no_result(tmp_path, capsys):
    assert main(["measure", "x", "--count", "nothing"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in COUNTING)
    assert main(["measure", str(tmp_path / "missing")]) == 2
    assert "missing: there is no such file or folder" in capsys.readouterr().err
