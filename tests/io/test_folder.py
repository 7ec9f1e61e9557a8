"""Folders, lists of inputs, atomic files, and the import guard."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_claps.errors import InputError, OutputError
from napari_claps.files.atomic import atomic_path
from napari_claps.io import list_inputs, read, read_folder_as_volume
from napari_claps.io.folder import natural_key
from tests.vendor_fixtures import glyph, write_heyex_xml, write_vol


def test_folder_in_natural_order(tmp_path):
    folder = tmp_path / "B-scans für Test"
    folder.mkdir()
    for z in range(1, 13):
        Image.fromarray(np.clip(glyph(40, 30).astype(int) + z, 0, 255).astype(np.uint8)).save(folder / f"scan{z}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"junk")
    volume = read_folder_as_volume(folder)
    assert volume.data.shape == (12, 40, 30) and volume.spacing is None
    np.testing.assert_array_equal(volume.data[:, 0, 0], 20 + np.arange(1, 13))
    assert [p.name for p in list_inputs([folder])][:3] == ["scan1.png", "scan2.png", "scan3.png"]
    np.testing.assert_array_equal(read(folder).data, volume.data)


def test_mixed_folder_names_both_files(tmp_path):
    Image.fromarray(glyph(40, 30)).save(tmp_path / "a.png")
    Image.fromarray(glyph(40, 31)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"mixes images: a\.png is 30 x 40 .*b\.png is 31 x 40"):
        read_folder_as_volume(tmp_path)


@pytest.mark.parametrize("eyes, side", [((b"OD", b"OD"), "R"), ((b"OD", b""), None), ((b"OD", b"OS"), "refused")])
def test_eye_of_a_folder_is_that_of_all_its_files(tmp_path, eyes, side):
    pytest.importorskip("eyepy", reason="the extra 'formats' is not installed")
    for number, eye in enumerate(eyes):
        write_vol(tmp_path / f"{number}.vol", n=1, pattern=1, eye=eye)
    if side == "refused":
        with pytest.raises(InputError, match=r"mixes eyes: 0\.vol is a right one, 1\.vol a left one"):
            read(tmp_path)
    else:
        assert read(tmp_path).laterality == side


def test_volume_in_a_folder_of_slices(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 20, 20), np.uint8))
    with pytest.raises(InputError, match=r"a\.npy: is a volume itself"):
        read_folder_as_volume(tmp_path)


def test_list_inputs_errors_and_order(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        list_inputs([tmp_path / "nowhere"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="folder is empty"):
        list_inputs([empty])
    (empty / "readme.md").write_text("x")
    with pytest.raises(InputError, match="no image among its 1 entries"):
        list_inputs([empty])
    with pytest.raises(InputError, match="No input"):
        list_inputs([])
    for name in ("b.png", "a.png"):
        Image.fromarray(glyph(40, 30)).save(tmp_path / name)
    found = list_inputs([tmp_path / "b.png", tmp_path, str(tmp_path / "a.png")])
    assert [p.name for p in found] == ["b.png", "a.png"]  # the order given, nothing twice


def test_heyex_export_stands_for_its_pictures(tmp_path):
    write_heyex_xml(tmp_path / "export")
    assert [p.name for p in list_inputs([tmp_path / "export"])] == ["export.xml"]
    assert read(tmp_path / "export").data.shape == (4, 40, 32)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_natural_order_is_that_of_the_numbers(numbers):
    from pathlib import Path

    names = sorted((Path(f"B{n}_x.png") for n in numbers), key=natural_key)
    assert [int(p.stem[1:-2]) for p in names] == sorted(numbers)


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "new folder" / "masks.ome.tif"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith(".ome.tif")
        temporary.write_text("first")
    assert target.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "first" and os.listdir(target.parent) == ["masks.ome.tif"]


def test_atomic_path_replaces_folders(tmp_path):
    target = tmp_path / "labels.zarr"
    for text in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / "x").write_text(text)
    assert (target / "x").read_text() == "two" and os.listdir(tmp_path) == ["labels.zarr"]


def test_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    target = tmp_path / "labels.zarr"
    target.mkdir()
    (target / "x").write_text("old")
    replace = os.replace

    def locked(source, destination):
        if ".part" in str(source):
            raise PermissionError(13, "in use", str(source))
        replace(source, destination)

    monkeypatch.setattr(os, "replace", locked)
    with pytest.raises(OutputError, match="in use"), atomic_path(target) as temporary:
        temporary.mkdir()
    assert (target / "x").read_text() == "old" and os.listdir(tmp_path) == ["labels.zarr"]


def test_atomic_path_reports_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"table\.csv: cannot be written"), \
            atomic_path(tmp_path / "file" / "table.csv") as temporary:  # fmt: skip
        temporary.write_text("x")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows write into read-only folders")
def test_atomic_path_in_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="may write to"), atomic_path(tmp_path / "a.csv") as temporary:
        temporary.write_text("x")


def test_reading_imports_no_heavy_library():
    code = (
        "import sys, napari_claps; napari_claps.read;"
        "print([m for m in ('torch', 'napari', 'qtpy', 'cv2', 'pydicom', 'eyepy', 'nibabel', 'tifffile') "
        "if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == "[]"
