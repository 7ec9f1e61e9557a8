"""Heidelberg .vol, HEYEX XML and .e2e, on files written here and, where present, on real ones."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.io.display import reflectivity_to_grey
from napari_claps.io.scan_geometry import circle_line, slice_distance
from napari_claps.types import Modality, SpacingSource
from tests.vendor_fixtures import PATIENT, glyph, volume, write_e2e, write_heyex_xml, write_vol

pytest.importorskip("eyepy", reason="the extra 'formats' is not installed")

DATA = os.environ.get("CLAPS_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="CLAPS_DATA names no folder with real files")


def everything_said(image) -> str:
    """All texts that could reach an output."""
    parts = [image] if image.localizer is None else [image, image.localizer]
    return " ".join(f"{dict(part.metadata)} {part.device} {list(part.layers)}" for part in parts)


def test_raster(tmp_path):
    write_vol(tmp_path / "macula links.vol")
    image = read(tmp_path / "macula links.vol")
    expected = volume(5, 40, 32)
    expected[0, :, 0] = 0  # not measured
    np.testing.assert_allclose(image.data, expected, atol=1)
    assert image.data.dtype == np.uint8 and image.modality is Modality.OCT
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113)) and image.spacing_source is SpacingSource.FILE
    assert image.laterality == "L" and image.metadata["scan_pattern"] == "raster"
    assert PATIENT not in everything_said(image) and "DOE" not in everything_said(image)

    np.testing.assert_array_equal(image.localizer.data, glyph(30, 36))
    assert image.localizer.spacing == (0.05, 0.05) and image.localizer.modality is Modality.SLO
    # Start and end of the B-scans: 0.12 mm apart, upwards, in pixels of 0.05 mm.
    np.testing.assert_allclose(image.scan_lines[:, 0, 0], (1.2 - 0.12 * np.arange(5)) / 0.05)
    np.testing.assert_allclose(image.scan_lines[:, 0, 1], 0.3 / 0.05)

    assert list(image.layers) == ["ILM", "BM", "RNFL"]
    assert image.layers["BM"].shape == (5, 32)
    assert np.isnan(image.layers["BM"][:, :2]).all()
    np.testing.assert_allclose(image.layers["BM"][:, 5], 11 + np.arange(5))


def test_agrees_with_eyepy(tmp_path):
    from eyepy.io.he.vol_reader import HeVolReader

    write_vol(tmp_path / "a.vol")
    image, theirs = read(tmp_path / "a.vol"), HeVolReader(tmp_path / "a.vol").volume
    assert image.spacing == pytest.approx((theirs.scale_z, theirs.scale_y, theirs.scale_x))
    np.testing.assert_allclose(image.layers["RNFL"], theirs.layers["RNFL"].data)


def test_line_has_no_third_axis(tmp_path):
    write_vol(tmp_path / "line.vol", n=1, pattern=1, distance=0.0, eye=b"OD")
    image = read(tmp_path / "line.vol")
    assert image.data.shape == (40, 32) and image.spacing == pytest.approx((0.0039, 0.0113))
    assert image.laterality == "R" and image.scan_lines.shape == (1, 2, 2)


def test_circle_lies_on_the_localizer(tmp_path):
    write_vol(tmp_path / "circle.vol", n=1, pattern=2, distance=0.0)
    image = read(tmp_path / "circle.vol")
    circle = image.scan_lines[0]
    np.testing.assert_allclose(np.linalg.norm(circle - [0.7 / 0.05, 0.8 / 0.05], axis=1), 0.4 / 0.05)
    np.testing.assert_allclose(circle[0], [14, 8])  # the first A-scan
    np.testing.assert_allclose(circle[-1], circle[0])


def test_star_has_no_distance(tmp_path):
    write_vol(tmp_path / "star.vol", n=6, pattern=5, distance=0.0)
    image = read(tmp_path / "star.vol")
    assert image.data.shape == (6, 40, 32) and image.spacing is None
    assert image.spacing_source is SpacingSource.NONE
    assert image.metadata == {"scan_pattern": "star"} and image.plane_spacing == pytest.approx((0.0039, 0.0113))


def test_missing_distance_follows_from_the_positions(tmp_path):
    write_vol(tmp_path / "a.vol", distance=0.0)
    assert read(tmp_path / "a.vol").spacing == pytest.approx((0.12, 0.0039, 0.0113))


@pytest.mark.parametrize("spacing", [(0.12, 0.0, 0.0113), (0.12, 0.0039, -0.0113), (0.12, float("nan"), 0.0113)])
def test_impossible_spacing_is_refused(tmp_path, spacing):
    write_vol(tmp_path / "bad.vol", spacing=spacing, distance=0.12)
    with pytest.raises(InputError, match=r"bad\.vol"):
        read(tmp_path / "bad.vol")


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.5, 0.99])
def test_truncated_vol(tmp_path, keep):
    write_vol(tmp_path / "cut.vol")
    content = (tmp_path / "cut.vol").read_bytes()
    (tmp_path / "cut.vol").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=r"cut\.vol"):
        read(tmp_path / "cut.vol")


def test_vol_that_claims_too_much(tmp_path):
    write_vol(tmp_path / "big.vol")
    content = bytearray((tmp_path / "big.vol").read_bytes())
    struct.pack_into("<I", content, 16, 4_000_000_000)
    (tmp_path / "big.vol").write_bytes(content)
    with pytest.raises(InputError, match=r"big\.vol: declares 4000000000 x 40 x 32"):
        read(tmp_path / "big.vol")


def test_memory_stays_below_the_size_of_the_file(tmp_path):
    """The file holds float32, the image a byte per pixel: B-scans are converted one at a time."""
    write_vol(tmp_path / "big.vol", n=13, height=496, width=768)
    read(tmp_path / "big.vol")  # imports
    tracemalloc.start()
    read(tmp_path / "big.vol")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "big.vol").stat().st_size > 19e6 and peak < 19e6


def test_xml(tmp_path):
    path, data = write_heyex_xml(tmp_path / "Export mit Leerzeichen")
    image = read(path)
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113)) and image.laterality == "L"
    assert image.scan_lines.shape == (4, 2, 2) and image.localizer.data.shape == (30, 36)
    np.testing.assert_allclose(image.layers["ILM"][:, 3], 7.5 + np.arange(4))
    assert np.isnan(image.layers["ILM"][:, 0]).all()
    assert PATIENT not in everything_said(image)


def test_xml_agrees_with_eyepy(tmp_path):
    from eyepy.io.he.xml_reader import HeXmlReader

    path, _ = write_heyex_xml(tmp_path / "export")
    image, theirs = read(path), HeXmlReader(path).volume
    np.testing.assert_array_equal(image.data, theirs.data)
    assert image.spacing == pytest.approx((theirs.scale_z, theirs.scale_y, theirs.scale_x))


def test_xml_with_a_missing_or_changed_picture(tmp_path):
    from PIL import Image

    path, _ = write_heyex_xml(tmp_path / "export")
    Image.fromarray(glyph(41, 32)).save(tmp_path / "export" / "B2.tif")
    with pytest.raises(InputError, match=r"B2\.tif is 32 x 41, but the export says 32 x 40"):
        read(path)
    (tmp_path / "export" / "B2.tif").unlink()
    with pytest.raises(InputError, match=r"B2\.tif: there is no such file"):
        read(path)


def test_damaged_and_malicious_xml(tmp_path):
    path, _ = write_heyex_xml(tmp_path / "export")
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"export\.xml: is damaged or truncated XML"):
        read(path)
    path.write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]>' + whole)
    with pytest.raises(InputError, match="entities"):
        read(path)


def test_e2e(tmp_path):
    write_e2e(tmp_path / "auge.e2e", n_series=2)
    image = read(tmp_path / "auge.e2e")
    np.testing.assert_allclose(image.data, volume(3, 40, 32), atol=1)
    assert image.spacing is None  # a degree is not a length
    assert image.metadata["axial_spacing"] == pytest.approx(0.0039)
    assert image.metadata["series"] == "1 of 2" and image.laterality == "L"
    np.testing.assert_array_equal(image.localizer.data, glyph(30, 36))
    np.testing.assert_allclose(image.layers["ILM"][:, 4], 6 + np.arange(3))
    assert image.source == str(tmp_path / "auge.e2e") and PATIENT not in everything_said(image)


def test_damaged_e2e(tmp_path):
    write_e2e(tmp_path / "loop.e2e", backwards=True)
    with pytest.raises(InputError, match=r"loop\.e2e: its directory leads back to itself"):
        read(tmp_path / "loop.e2e")
    write_e2e(tmp_path / "cut.e2e")
    content = (tmp_path / "cut.e2e").read_bytes()
    (tmp_path / "cut.e2e").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(InputError, match=r"cut\.e2e"):
        read(tmp_path / "cut.e2e")


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30))
def test_display_keeps_order_and_range(values):
    grey = reflectivity_to_grey(np.sort(np.array(values, np.float32)))
    assert grey.dtype == np.uint8 and (np.diff(grey.astype(int)) >= 0).all()


def test_display_of_what_was_not_measured():
    raw = np.array([0, 1, 1 / 16, np.nan, -1, np.finfo(np.float32).max, 1.5], np.float32)
    np.testing.assert_array_equal(reflectivity_to_grey(raw), [0, 255, 128, 0, 0, 0, 255])


@given(st.floats(0.01, 1), st.floats(0, 2 * np.pi), st.integers(2, 20))
def test_distance_of_a_turned_raster(distance, angle, n):
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    starts = np.array([1.0, 2.0]) + np.arange(n)[:, None] * distance * across
    assert slice_distance(starts, starts + 6 * along) == pytest.approx(distance)


def test_no_distance_where_there_is_none():
    starts = np.array([[0.0, 0], [0, 1], [0, 3]])  # uneven
    assert slice_distance(starts, starts + np.array([5, 0])) is None
    assert slice_distance(starts[:1], starts[:1] + np.array([5, 0])) is None
    assert slice_distance(np.zeros((2, 2)), np.array([[1.0, 0], [0, 1]])) is None  # a cross


@pytest.mark.parametrize("side", [-1, 1])
def test_circles_start_temporal_and_go_up(side):
    line = circle_line(np.array([10.0 + side, 5]), np.array([10.0, 5]), (0.1, 0.1))[0]
    np.testing.assert_allclose(line[0], [50, 100 + 10 * side])
    assert line[10, 0] < 50  # superior is up, a smaller y


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("name, pattern", [
    ("spectralis_circle_a", "circle"), ("spectralis_circle_b", "circle"), ("spectralis_circle_c", "circle"),
    ("spectralis_line_1bscan", "line"),
])  # fmt: skip
def test_real_vol_files(name, pattern):
    image = read(Path(DATA) / "formats" / f"{name}.vol")
    assert image.data.shape == (496, 768) and image.metadata["scan_pattern"] == pattern
    assert image.spacing[0] == pytest.approx(0.00387, abs=1e-5) and image.laterality == "R"
    assert image.localizer.data.shape == (768, 768)
    assert (image.scan_lines >= 0).all() and (image.scan_lines <= 768).all()
    assert 20 < image.data.mean() < 80  # as dark as the device's own exports
    ilm = image.layers["ILM"][0]
    columns = np.flatnonzero(np.isfinite(ilm) & (ilm > 12) & (ilm < 480))
    above = np.mean([image.data[int(ilm[x]) - 10 : int(ilm[x]) - 3, x].mean() for x in columns])
    below = np.mean([image.data[int(ilm[x]) + 3 : int(ilm[x]) + 10, x].mean() for x in columns])
    assert below > 1.5 * above  # the line of the device lies on the surface of the retina


@pytest.mark.data
@needs_data
def test_eyepy_dummies():
    vol = read(Path(DATA) / "formats" / "eyepy_dummy_volume.vol")
    xml = read(Path(DATA) / "formats" / "heidelberg_xml")
    assert vol.data.shape == xml.data.shape == (10, 40, 50)
    assert vol.spacing == pytest.approx(xml.spacing)
