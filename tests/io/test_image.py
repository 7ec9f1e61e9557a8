"""PNG, JPEG, BMP, PPM, NumPy, and what all readers do with pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.io.pixels import check_claim, grey_or_rgb
from tests.vendor_fixtures import glyph


@pytest.fixture
def colour() -> np.ndarray:
    return np.stack([glyph(40, 30), glyph(40, 30) // 2, np.full((40, 30), 9, np.uint8)], axis=-1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm"])
def test_lossless_colour_comes_back(tmp_path, colour, suffix):
    path = tmp_path / f"Bild mit Ümläuten.{suffix}"
    Image.fromarray(colour).save(path)
    image = read(path)
    assert image.rgb and image.source == str(path) and image.spacing is None and image.modality is None
    np.testing.assert_array_equal(image.data, colour)


def test_grey_stored_as_colour_is_grey(tmp_path):
    Image.fromarray(np.repeat(glyph(40, 30)[..., None], 3, axis=-1)).save(tmp_path / "a.jpg", quality=95)
    image = read(tmp_path / "a.jpg")
    assert not image.rgb and image.data.shape == (40, 30) and image.data.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "pgm"])
def test_16_bit_grey_keeps_its_depth(tmp_path, suffix):
    data = glyph(40, 30).astype(np.uint16) * 257
    Image.fromarray(data).save(tmp_path / f"a.{suffix}")
    image = read(tmp_path / f"a.{suffix}")
    assert image.data.dtype == np.uint16
    np.testing.assert_array_equal(image.data, data)


def test_palette_and_bilevel(tmp_path, colour):
    Image.fromarray(colour).quantize(8).save(tmp_path / "palette.png")
    assert read(tmp_path / "palette.png").rgb
    Image.fromarray(glyph(40, 30) > 100).save(tmp_path / "bits.png")
    assert set(np.unique(read(tmp_path / "bits.png").data)) == {0, 255}


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path, colour):
    alpha = np.full((40, 30, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([colour, alpha], axis=-1)).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read(tmp_path / "opaque.png").data, colour)
    alpha[3, 4] = 0
    Image.fromarray(np.concatenate([colour, alpha], axis=-1)).save(tmp_path / "hole.png")
    with pytest.raises(InputError, match=r"hole\.png.*4 channels.*1 of 1200 pixels transparent.*[Ff]latten"):
        read(tmp_path / "hole.png")


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise
    Image.fromarray(glyph(48, 32)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png").data, np.rot90(glyph(48, 32), -1))


def test_bytes_win_over_a_wrong_suffix(tmp_path, colour):
    Image.fromarray(colour).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.jpg")
    np.testing.assert_array_equal(read(tmp_path / "named.jpg").data, colour)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "ppm"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_images_are_refused(tmp_path, colour, suffix, keep):
    path = tmp_path / f"cut.{suffix}"
    noisy = (colour.astype(int) + np.random.default_rng(0).integers(0, 50, colour.shape)).clip(0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match=r"cut\..*(truncated|damaged)"):
        read(path)


def test_wrong_checksum_is_refused(tmp_path, colour):
    path = tmp_path / "flip.png"
    Image.fromarray(colour).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"flip\.png"):
        read(path)


def test_decompression_bomb_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(60_000, 60_000))
    with pytest.raises(InputError, match=r"bomb\.png"):
        read(path)
    path.write_bytes(_png_header(12_000, 12_000))
    with pytest.raises(InputError, match=r"bomb\.png"):
        read(path)


def _png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_missing_empty_unknown_and_tiny(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "missing.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.png.*0 bytes"):
        read(tmp_path / "empty.png")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt.*Known are.*\.vol"):
        read(tmp_path / "notes.txt")
    (tmp_path / "text.png").write_text("hello, this is no image at all")
    with pytest.raises(InputError, match=r"text\.png.*named like a PNG"):
        read(tmp_path / "text.png")
    Image.new("L", (1, 1)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="at least 8 x 8"):
        read(tmp_path / "one.png")


def test_npy(tmp_path):
    volume = np.stack([glyph(20, 30)] * 3)
    np.save(tmp_path / "v.npy", volume)
    np.testing.assert_array_equal(read(tmp_path / "v.npy").data, volume)
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"o\.npy"):
        read(tmp_path / "o.npy")
    np.save(tmp_path / "i.npy", np.array([[1, np.inf], [np.nan, 2]]).repeat(10, 0).repeat(10, 1))
    with pytest.raises(InputError, match=r"i\.npy: 200 of 400 pixels are NaN or infinite"):
        read(tmp_path / "i.npy")
    np.save(tmp_path / "c.npy", np.ones((20, 20), complex))
    with pytest.raises(InputError, match="complex128"):
        read(tmp_path / "c.npy")
    content = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "v.npy").write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"v\.npy.*truncated"):
        read(tmp_path / "v.npy")


def test_npy_that_claims_more_than_it_has(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
    (tmp_path / "big.npy").write_bytes(file.getvalue() + bytes(100))
    with pytest.raises(InputError, match=r"big\.npy"):
        read(tmp_path / "big.npy")


@settings(max_examples=50, deadline=None)
@given(npst.arrays(npst.integer_dtypes(sizes=(8, 16)) | npst.unsigned_integer_dtypes(sizes=(8, 16)), (4, 5, 3)))
def test_colour_of_any_depth_becomes_8_bits_in_the_same_order(data):
    try:
        result, rgb = grey_or_rgb(data, "x", colour=True)
    except InputError as error:
        assert data.min() < 0 and "colour runs from" in str(error)
        return
    if not rgb:
        assert (data[..., 0] == data[..., 2]).all() and result.dtype == data.dtype.newbyteorder("=")
        return
    assert result.dtype == np.uint8
    order = np.argsort(data, axis=None, kind="stable")
    assert (np.diff(result.ravel()[order].astype(int)) >= 0).all()


@given(st.lists(st.integers(1, 10**7), min_size=2, max_size=4), st.integers(0, 10**9))
def test_no_claim_beyond_the_file_is_accepted_uncompressed(shape, available):
    claimed = int(np.prod([int(n) for n in shape], dtype=object))
    if claimed > available:
        with pytest.raises(InputError, match="x"):
            check_claim("x", shape, 1, available, compressed=False)
