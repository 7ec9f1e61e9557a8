"""TIFF, ImageJ and OME-TIFF."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.types import SpacingSource
from tests.vendor_fixtures import glyph, volume


def test_plain_and_multi_page(tmp_path):
    tifffile.imwrite(tmp_path / "plane.tif", glyph(40, 30))
    np.testing.assert_array_equal(read(tmp_path / "plane.tif").data, glyph(40, 30))
    data = volume(4, 40, 30)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:  # separate pages, as scanners write them
        for plane in data:
            writer.write(plane, metadata=None, resolution=(300, 300), resolutionunit="INCH")
    image = read(tmp_path / "pages.tif")
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing is None and image.spacing_source is SpacingSource.NONE  # 300 dpi is for printing


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_ome_sizes_in_any_unit(tmp_path, compression, dtype):
    data = volume(3, 40, 30).astype(dtype)
    path = tmp_path / "größe 1.ome.tif"
    sizes = {"PhysicalSizeX": 0.0113, "PhysicalSizeXUnit": "mm", "PhysicalSizeY": 3.9, "PhysicalSizeYUnit": "µm",
             "PhysicalSizeZ": 120_000.0, "PhysicalSizeZUnit": "nm"}  # fmt: skip
    tifffile.imwrite(path, data, compression=compression, metadata={"axes": "ZYX", **sizes})
    image = read(path)
    np.testing.assert_array_equal(image.data, data)
    assert image.data.dtype == dtype
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113)) and image.spacing_source is SpacingSource.FILE


def test_ome_without_z_size_has_only_a_plane_spacing(tmp_path):
    meta = {"axes": "ZYX", "PhysicalSizeX": 11.0, "PhysicalSizeY": 4.0}  # the default unit is the micrometre
    tifffile.imwrite(tmp_path / "a.ome.tif", volume(3, 40, 30), metadata=meta)
    image = read(tmp_path / "a.ome.tif")
    assert image.spacing is None
    assert image.plane_spacing == pytest.approx((0.004, 0.011))


def test_ome_pixels_are_no_length(tmp_path):
    meta = {"axes": "YX", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 1.0,
            "PhysicalSizeYUnit": "pixel"}  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", glyph(40, 30), metadata=meta)
    assert read(tmp_path / "a.ome.tif").spacing is None


@pytest.mark.parametrize("size", [0.0, -3.9])
def test_zero_and_negative_sizes_are_refused(tmp_path, size):
    meta = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": 3.9}
    tifffile.imwrite(tmp_path / "bad.ome.tif", glyph(40, 30), metadata=meta)
    with pytest.raises(InputError, match=r"bad\.ome\.tif: spacing .*positive"):
        read(tmp_path / "bad.ome.tif")


def test_imagej_calibration(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", volume(3, 40, 30), imagej=True, resolution=(1 / 11.3, 1 / 3.9),
                     metadata={"axes": "ZYX", "spacing": 120.0, "unit": "micron"})  # fmt: skip
    image = read(tmp_path / "stack.tif")
    assert image.data.shape == (3, 40, 30)
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113), rel=1e-4)
    tifffile.imwrite(tmp_path / "none.tif", volume(3, 40, 30), imagej=True, metadata={"axes": "ZYX"})
    assert read(tmp_path / "none.tif").spacing is None


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour(tmp_path, planar):
    data = np.stack([glyph(40, 30), glyph(40, 30) // 3, glyph(40, 30) // 2], axis=-1)
    stored = data if planar == "contig" else np.moveaxis(data, -1, 0)
    tifffile.imwrite(tmp_path / "rgb.tif", stored, photometric="rgb", planarconfig=planar)
    image = read(tmp_path / "rgb.tif")
    assert image.rgb
    np.testing.assert_array_equal(image.data, data)
    # 12 bits in 16, as fundus cameras store them
    tifffile.imwrite(tmp_path / "deep.tif", stored.astype(np.uint16) * 16, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read(tmp_path / "deep.tif").data, data)


def test_palette_and_white_is_zero(tmp_path):
    palette = np.zeros((3, 256), np.uint16)
    palette[0] = np.arange(256) * 257
    tifffile.imwrite(tmp_path / "palette.tif", glyph(40, 30), photometric="palette", colormap=palette)
    image = read(tmp_path / "palette.tif")
    assert image.rgb
    np.testing.assert_array_equal(image.data[..., 0], glyph(40, 30))
    tifffile.imwrite(tmp_path / "inverse.tif", 255 - glyph(40, 30), photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "inverse.tif").data, glyph(40, 30))


def test_channels_that_are_no_colours(tmp_path):
    masks = np.zeros((2, 40, 30), np.uint16)
    meta = {"axes": "CYX", "Channel": {"Name": ["vessel", "optic_disc"]}}
    tifffile.imwrite(tmp_path / "masks.ome.tif", masks, metadata=meta)
    with pytest.raises(InputError, match=r"masks\.ome\.tif: has 2 channels \(vessel, optic_disc\)"):
        read(tmp_path / "masks.ome.tif")


def test_several_times_and_different_sizes(tmp_path):
    tifffile.imwrite(tmp_path / "tz.ome.tif", np.zeros((2, 3, 40, 30), np.uint8), metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="one time point"):
        read(tmp_path / "tz.ome.tif")
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(glyph(40, 30))
        writer.write(glyph(50, 30))
    with pytest.raises(InputError, match=r"mixed\.tif: holds 2 images of different size"):
        read(tmp_path / "mixed.tif")


def test_pyramid_gives_its_full_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(glyph(64, 48), subifds=1)
        writer.write(glyph(64, 48)[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read(tmp_path / "pyramid.tif").data, glyph(64, 48))


def test_nan_is_counted(tmp_path):
    data = np.ones((2, 20, 30), np.float32)
    data[1, 3, 4:7] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", data)
    with pytest.raises(InputError, match=r"nan\.tif: 3 of 1200 pixels"):
        read(tmp_path / "nan.tif")


def test_a_trillion_pixels_are_refused_at_once(tmp_path):
    path = tmp_path / "huge.tif"
    for compression in (1, 8):
        path.write_bytes(_claim(10**6, 10**6, compression))
        with pytest.raises(InputError, match=r"huge\.tif"):
            read(path)


def _claim(width: int, height: int, compression: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 200),
               (277, 3, 1), (278, 4, height), (279, 4, 100)]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return (b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)).ljust(200, b"\0") + bytes(100)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["ome", "imagej", "pages"])
def test_every_truncation_is_refused(tmp_path, kind, compression):
    if kind == "imagej" and compression:
        pytest.skip("ImageJ stacks are not compressed")
    path = tmp_path / ("cut.ome.tif" if kind == "ome" else "cut.tif")
    data = np.random.default_rng(0).integers(0, 255, (5, 40, 30), dtype=np.uint8)
    if kind == "pages":
        with tifffile.TiffWriter(path) as writer:
            for plane in data:
                writer.write(plane, metadata=None, compression=compression, contiguous=False)
    else:
        tifffile.imwrite(path, data, imagej=kind == "imagej", compression=compression, metadata={"axes": "ZYX"})
    whole = path.read_bytes()
    np.testing.assert_array_equal(read(path).data, data)
    for keep in (0.15, 0.3, 0.5, 0.7, 0.9, 0.98):
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(InputError, match=r"cut\."):
            image = read(path)
            # Metadata behind the pixels may be lost, but never pixels.
            if image.data.shape == data.shape and (image.data == data).all():
                raise InputError("cut. only behind the pixels")


def test_large_stacks_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_claps.io.tiff.MAP_FROM", 1)
    data = volume(3, 40, 30)
    tifffile.imwrite(tmp_path / "big.tif", data, photometric="minisblack")
    image = read(tmp_path / "big.tif")
    assert isinstance(image.data.base, np.memmap) or isinstance(image.data, np.memmap)
    np.testing.assert_array_equal(image.data, data)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_large_stacks_have_the_pixels_of_small_ones(tmp_path, monkeypatch, byteorder, photometric):
    data = np.arange(3 * 20 * 30, dtype=np.uint16).reshape(3, 20, 30) * 7
    tifffile.imwrite(tmp_path / "stack.tif", data, byteorder=byteorder, photometric=photometric, metadata=None)
    small = read(tmp_path / "stack.tif").data
    np.testing.assert_array_equal(small, data if photometric == "minisblack" else ~data)
    monkeypatch.setattr("napari_claps.io.tiff.MAP_FROM", 1)
    np.testing.assert_array_equal(read(tmp_path / "stack.tif").data, small)


@pytest.mark.parametrize("unit", ["inch", "cm"])
def test_dots_per_inch_that_imagej_took_over_are_no_spacing(tmp_path, unit):
    tifffile.imwrite(tmp_path / "print.tif", glyph(40, 30), imagej=True, resolution=(300, 300),
                     metadata={"axes": "YX", "unit": unit})  # fmt: skip
    image = read(tmp_path / "print.tif")
    assert image.spacing is None
    assert image.plane_spacing is None


def test_negative_size_within_a_slice_is_refused_without_a_distance(tmp_path):
    meta = {"axes": "ZYX", "PhysicalSizeX": -11.3, "PhysicalSizeY": 3.9}
    tifffile.imwrite(tmp_path / "bad.ome.tif", volume(3, 40, 30), metadata=meta)
    with pytest.raises(InputError, match=r"bad\.ome\.tif: spacing .*positive"):
        read(tmp_path / "bad.ome.tif")
