"""Topcon, Optovue, Bioptigen and Zeiss through oct-converter, and the child process they run in."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_claps.errors import InputError
from napari_claps.io import isolated, read
from napari_claps.io.optional import require, require_installed
from napari_claps.types import Modality, RetinalImage, SpacingSource
from tests.vendor_fixtures import PATIENT, volume, write_bioptigen, write_fda, write_fds, write_optovue

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("oct_converter") is None, reason="the extra 'vendor' is not installed"
)


@needs_library
@pytest.mark.parametrize("write, name", [(write_fds, "a.fds"), (write_fda, "a.fda")])
def test_topcon(tmp_path, write, name):
    data = write(tmp_path / name)
    image = read(tmp_path / name)
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing == pytest.approx((0.1, 0.0035, 0.012)) and image.laterality == "L"
    assert image.modality is Modality.OCT and PATIENT not in repr(image)
    assert "cv2" not in sys.modules or "oct_converter" not in sys.modules  # the child keeps them


@needs_library
def test_topcon_radial_has_no_distance(tmp_path):
    write_fds(tmp_path / "a.fds", mode=3)
    image = read(tmp_path / "a.fds")
    assert image.spacing is None and image.plane_spacing == pytest.approx((0.0035, 0.012))


@needs_library
def test_optovue_takes_the_first_scan_and_no_placeholder(tmp_path):
    data = write_optovue(tmp_path / "P 1.OCT")
    image = read(tmp_path / "P 1.OCT")
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing is None and image.laterality == "L" and image.metadata["series"] == "1 of 2"
    (tmp_path / "P 1.txt").unlink()
    with pytest.raises(InputError, match=r"P 1\.OCT: .*\.txt of the same name"):
        read(tmp_path / "P 1.OCT")


@needs_library
def test_bioptigen_and_its_truncation(tmp_path):
    data = write_bioptigen(tmp_path / "b.oct")
    image = read(tmp_path / "b.oct")
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing is None and PATIENT not in repr(image)
    content = (tmp_path / "b.oct").read_bytes()
    (tmp_path / "b.oct").write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"b\.oct"):
        read(tmp_path / "b.oct")


@needs_library
@pytest.mark.parametrize("name, side", [("ROSSI_1.oct", None), ("JODE.oct", None), ("P7_OD_3.oct", "R"),
                                        ("P7 OS.oct", "L"), ("OD_or_OS.oct", None)])  # fmt: skip
def test_eye_is_not_taken_from_the_middle_of_a_name(tmp_path, name, side):
    write_bioptigen(tmp_path / name)
    assert read(tmp_path / name).laterality == side


@needs_library
def test_truncated_topcon_and_unknown_cube(tmp_path):
    for write, name in ((write_fds, "a.fds"), (write_fda, "a.fda")):
        write(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
            read(tmp_path / name)
        assert PATIENT not in str(caught.value)
    (tmp_path / "cube.img").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"cube\.img: 1000 bytes are none of the known Zeiss cubes"):
        read(tmp_path / "cube.img")


def test_missing_library_names_the_extra():
    with pytest.raises(InputError, match=r'x\.fda: reading \.fda needs .*pip install "napari-claps\[vendor\]"'):
        require_installed("no_such_library", extra="vendor", what="x.fda: reading .fda")
    with pytest.raises(InputError, match=r"napari-claps\[formats\]"):
        require("no_such_library.part", extra="formats", what="x.vol: reading .vol")


# Readers for the child below; it imports this module by name.
def whole_image(path: Path) -> RetinalImage:
    localizer = RetinalImage(np.ones((20, 30), np.uint8), modality=Modality.SLO, laterality="R")
    return RetinalImage(
        volume(2, 20, 30), modality=Modality.OCT, spacing=(0.1, 0.2, 0.3), spacing_source=SpacingSource.FILE,
        laterality="R", source=str(path), metadata={"scan_pattern": "raster"}, plane_spacing=(0.2, 0.3),
        localizer=localizer, scan_lines=np.zeros((2, 2, 2)), layers={"ILM": np.ones((2, 30))}, device="D",
    )  # fmt: skip


def never_ends(path: Path) -> RetinalImage:
    while True:
        pass


def crashes(path: Path) -> RetinalImage:
    import os

    os._exit(3)


def tells_names(path: Path) -> RetinalImage:
    raise ValueError(PATIENT)


def eats_memory(path: Path) -> RetinalImage:
    return RetinalImage(np.ones((isolated.GIBIBYTES * 2**30 // 1000, 1000), np.uint8))


def test_child_brings_everything_back(tmp_path):
    image = isolated.read_isolated("tests.io.test_vendor:whole_image", tmp_path / "ü.fda")
    expected = whole_image(tmp_path / "ü.fda")
    np.testing.assert_array_equal(image.data, expected.data)
    for name in ("spacing", "spacing_source", "modality", "laterality", "source", "device"):
        assert getattr(image, name) == getattr(expected, name)
    assert image.localizer.modality is Modality.SLO and image.localizer.data.shape == (20, 30)
    assert image.layers["ILM"].shape == (2, 30) and image.scan_lines.shape == (2, 2, 2)
    assert image.metadata == expected.metadata


def first_of_three(path: Path) -> RetinalImage:
    return RetinalImage(volume(2, 20, 30), source=str(path), metadata={"series": "1 of 3"})


def test_further_scans_of_a_file_are_mentioned(tmp_path, caplog):
    isolated.read_isolated("tests.io.test_vendor:first_of_three", tmp_path / "a.e2e")
    assert "a.e2e: holds several OCT scans; 1 of 3 is read" in caplog.text


@pytest.mark.parametrize("reader, text", [
    ("crashes", r"crashed or ran out of memory \(exit code 3\)"), ("tells_names", r"damaged.*\(ValueError\)"),
])  # fmt: skip
def test_child_fails(tmp_path, reader, text):
    with pytest.raises(InputError, match=text) as caught:
        isolated.read_isolated(f"tests.io.test_vendor:{reader}", tmp_path / "a.fda")
    assert PATIENT not in str(caught.value)


def test_child_has_a_time_limit(tmp_path):
    with pytest.raises(InputError, match=r"a\.fda: was not read within 4 seconds"):
        isolated.read_isolated("tests.io.test_vendor:never_ends", tmp_path / "a.fda", seconds=4)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the address space")
def test_child_has_a_memory_limit(tmp_path):
    with pytest.raises(InputError, match=r"a\.fda"):
        isolated.read_isolated("tests.io.test_vendor:eats_memory", tmp_path / "a.fda")


def test_nothing_of_an_image_is_lost_on_its_way_out_of_the_child() -> None:
    """A field that is added to the image later must be added to the packet, too."""
    beside = {"data", "metadata", "localizer", "scan_lines", "layers"}
    assert {field.name for field in dataclasses.fields(RetinalImage)} == {*isolated._FIELDS, *beside}
