"""Damaged files: every reader returns a valid image or a ClapsError, quickly and within little memory."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_claps.errors import ClapsError
from napari_claps.io import read
from tests.vendor_fixtures import glyph, volume, write_dicom, write_e2e, write_heyex_xml, write_vol

ANY_SPEED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

PEAK = 300 * 2**20
"""Bytes that reading a damaged file of some kilobytes may take."""


def _png(path: Path) -> None:
    Image.fromarray(glyph(40, 30)).save(path)


def _jpeg(path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def _tiff(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for plane in volume(3, 40, 30):
            writer.write(plane, metadata=None, compression="lzw")


def _ome(path: Path) -> None:
    tifffile.imwrite(path, volume(3, 40, 30), compression="zlib",
                     metadata={"axes": "ZYX", "PhysicalSizeX": 11.0, "PhysicalSizeY": 4.0, "PhysicalSizeZ": 100.0})


def _imagej(path: Path) -> None:
    tifffile.imwrite(path, volume(3, 40, 30), imagej=True, resolution=(0.1, 0.2),
                     metadata={"axes": "ZYX", "spacing": 5.0, "unit": "um"})


def _npy(path: Path) -> None:
    np.save(path, volume(3, 40, 30).astype(np.float32))


def _nifti(path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra 'formats' is not installed")
    nibabel.save(nibabel.Nifti1Image(volume(3, 40, 30).T, np.diag([0.1, 0.2, 0.3, 1])), path)


def _vol(path: Path) -> None:
    pytest.importorskip("eyepy", reason="the extra 'formats' is not installed")
    write_vol(path, n=3)


def _xml(path: Path) -> None:
    made, _ = write_heyex_xml(path.parent, n=2)
    made.rename(path)


def _dicom(path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra 'formats' is not installed")
    write_dicom(path, volume(3, 40, 30))


def _rle(path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the extra 'formats' is not installed")
    write_dicom(path, volume(3, 40, 30))
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)


WRITERS = {
    "a.png": _png, "a.bmp": _png, "a.pgm": _png, "a.jpg": _jpeg, "pages.tif": _tiff, "a.ome.tif": _ome,
    "imagej.tif": _imagej, "a.npy": _npy, "a.nii": _nifti, "a.nii.gz": _nifti, "a.vol": _vol, "a.xml": _xml,
    "a.dcm": _dicom, "rle.dcm": _rle,
}  # fmt: skip

EXTREMES = (0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 100_000)

damage = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        # Most of what decides sizes stands at the start.
        st.tuples(st.just("flip"), st.floats(0, 0.1), st.integers(1, 255)),
        st.tuples(st.just("number"), st.floats(0, 0.2), st.sampled_from(EXTREMES)),
        st.tuples(st.just("number"), st.floats(0.9, 1), st.sampled_from(EXTREMES)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def damaged(content: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """Apply cuts, flipped bits and extreme numbers at relative places."""
    data = bytearray(content)
    for kind, where, value in changes:
        at = int(where * len(data))
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and at < len(data):
            data[at] ^= value
        elif kind == "number" and at + 4 <= len(data):
            struct.pack_into("<I", data, at, value)
    return bytes(data)


@pytest.fixture(params=WRITERS, ids=str)
def sound(request, tmp_path) -> tuple[Path, bytes]:
    path = tmp_path / "Ordner mit Ü" / request.param
    path.parent.mkdir()
    WRITERS[request.param](path)
    return path, path.read_bytes()


def test_sound_files(sound):
    """The folder has a space and a letter that is not ASCII; what is damaged below is read here."""
    path, _ = sound
    image = read(path)
    assert image.plane_shape in ((40, 30), (40, 32)) and image.data.std() > 0


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=ANY_SPEED)
@given(changes=damage)
def test_damaged_files(sound, changes):
    path, content = sound
    path.write_bytes(damaged(content, changes))
    tracemalloc.start()
    try:
        image = read(path)
    except ClapsError as error:
        assert path.name in str(error) and len(str(error)) < 2000
    else:
        assert image.data.size > 0 and np.isfinite(image.data[..., :1]).all()
        assert image.spacing is None or all(s > 0 for s in image.spacing)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PEAK


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=ANY_SPEED)
@given(changes=damage)
def test_damaged_e2e_ends(tmp_path, changes):
    """What runs in the child may raise anything, but the directory must never lead in circles."""
    pytest.importorskip("eyepy", reason="the extra 'formats' is not installed")
    from napari_claps.io.e2e import parse_e2e

    path = tmp_path / "a.e2e"
    write_e2e(path, n=2)
    path.write_bytes(damaged(path.read_bytes(), changes))
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        parse_e2e(path)
