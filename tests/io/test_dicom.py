"""DICOM and NIfTI."""

from __future__ import annotations

import numpy as np
import pytest

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.types import Modality, SpacingSource
from tests.vendor_fixtures import PATIENT, glyph, volume, write_dicom

pydicom = pytest.importorskip("pydicom", reason="the extra 'formats' is not installed")
nibabel = pytest.importorskip("nibabel", reason="the extra 'formats' is not installed")

OP_8_BIT, OP_16_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1", "1.2.840.10008.5.1.4.1.1.77.1.5.2"
WIDE_FIELD, SECONDARY = "1.2.840.10008.5.1.4.1.1.77.1.5.5", "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def colour() -> np.ndarray:
    return np.stack([glyph(40, 30), glyph(40, 30) // 3, glyph(40, 30) // 2], axis=-1)


def test_tomography(tmp_path):
    data = volume(4, 40, 32)
    write_dicom(tmp_path / "oct été.dcm", data, between=0.12)
    image = read(tmp_path / "oct été.dcm")
    np.testing.assert_array_equal(image.data, data)
    assert image.modality is Modality.OCT and image.laterality == "L" and image.device == "Acme Eye 1"
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113)) and image.spacing_source is SpacingSource.FILE
    np.testing.assert_allclose(image.scan_lines[:, :, 0], np.repeat(300 - 10.0 * np.arange(4), 2).reshape(4, 2))
    np.testing.assert_allclose(image.scan_lines[:, :, 1], [[50, 150]] * 4)
    assert PATIENT not in f"{image!r}"


def test_distance_from_the_frame_locations(tmp_path):
    # 32 columns of 0.0113 mm are 100 pixels of the localizer; the B-scans are 10 of them apart.
    write_dicom(tmp_path / "a.dcm", volume(4, 40, 32))
    assert read(tmp_path / "a.dcm").spacing == pytest.approx((32 * 0.0113 / 10, 0.0039, 0.0113))
    write_dicom(tmp_path / "b.dcm", volume(4, 40, 32), step=None)
    image = read(tmp_path / "b.dcm")
    assert image.spacing is None and image.plane_spacing == pytest.approx((0.0039, 0.0113))


@pytest.mark.parametrize("sop_class, modality", [(OP_8_BIT, None), (WIDE_FIELD, Modality.UWF), (SECONDARY, None)])
def test_photographs(tmp_path, colour, sop_class, modality):
    write_dicom(tmp_path / "a.dcm", colour, sop_class=sop_class, modality="OP", spacing=None)
    image = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.data, colour)
    assert image.rgb and image.modality is modality and image.spacing is None


def test_grey_wide_field_may_be_an_angiogram(tmp_path):
    write_dicom(tmp_path / "a.dcm", glyph(40, 30), sop_class=WIDE_FIELD, modality="OP")
    assert read(tmp_path / "a.dcm").modality is None


def test_16_bit_and_inverse_grey(tmp_path):
    data = glyph(40, 30).astype(np.uint16) * 16
    write_dicom(tmp_path / "a.dcm", data, sop_class=OP_16_BIT, modality="OP", bits=12, spacing=(0.01, 0.02))
    image = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing == pytest.approx((0.01, 0.02))
    write_dicom(tmp_path / "b.dcm", 4095 - data, bits=12, photometric="MONOCHROME1", modality="OP")
    np.testing.assert_array_equal(read(tmp_path / "b.dcm").data, data)


def test_compressed(tmp_path):
    from pydicom.uid import RLELossless

    write_dicom(tmp_path / "a.dcm", volume(3, 40, 32), between=0.1)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read(tmp_path / "rle.dcm").data, volume(3, 40, 32))


def _encapsulated(path, frame: bytes, syntax, manufacturer: str = "Acme") -> None:
    write_dicom(path, glyph(40, 32), manufacturer=manufacturer)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)


def test_jpeg_2000(tmp_path):
    import io

    from PIL import Image, features
    from pydicom.uid import JPEG2000Lossless

    if not features.check("jpg_2000"):
        pytest.skip("this Pillow writes no JPEG 2000")
    file = io.BytesIO()
    Image.fromarray(glyph(40, 32)).save(file, "JPEG2000", irreversible=False, no_jp2=True)
    _encapsulated(tmp_path / "a.dcm", file.getvalue(), JPEG2000Lossless)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm").data, glyph(40, 32))


def test_scrambled_zeiss_is_refused_with_the_reason(tmp_path):
    from pydicom.uid import JPEG2000Lossless

    frame = bytes(b ^ 0x5A for b in b"\xff\x4f\xff\x51" + bytes(400))
    _encapsulated(tmp_path / "z.dcm", frame, JPEG2000Lossless, "Carl Zeiss Meditec")
    with pytest.raises(InputError, match=r"z\.dcm: is a Zeiss DICOM with scrambled pixels.*Export"):
        read(tmp_path / "z.dcm")
    _encapsulated(tmp_path / "a.dcm", frame, JPEG2000Lossless)
    with pytest.raises(InputError, match=r"a\.dcm: its first frame is no JPEG"):
        read(tmp_path / "a.dcm")


def test_unsupported_syntax_and_missing_decoder(tmp_path, monkeypatch):
    from pydicom.uid import MPEG2MPML, JPEGLSLossless

    _encapsulated(tmp_path / "film.dcm", b"\xff\xd8" + bytes(100), MPEG2MPML)
    with pytest.raises(InputError, match=r"film\.dcm: its pixels are stored as MPEG2"):
        read(tmp_path / "film.dcm")
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    _encapsulated(tmp_path / "ls.dcm", b"\xff\xd8" + bytes(100), JPEGLSLossless)
    with pytest.raises(InputError, match=r"ls\.dcm: its pixels are stored as JPEG-LS.*napari-claps\[formats\]"):
        read(tmp_path / "ls.dcm")


def test_no_pixels_and_deflated(tmp_path):
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    write_dicom(tmp_path / "a.dcm", glyph(40, 32))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm")
    with pytest.raises(InputError, match=r"deflated\.dcm: is a deflated DICOM"):
        read(tmp_path / "deflated.dcm")
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    del dataset.PixelData
    dataset.save_as(tmp_path / "none.dcm")
    with pytest.raises(InputError, match=r"none\.dcm: holds no pixels \(it is: Ophthalmic Tomography"):
        read(tmp_path / "none.dcm")


@pytest.mark.parametrize("spacing", [(0.0, 0.01), (0.01, -0.01)])
def test_impossible_spacing(tmp_path, spacing):
    write_dicom(tmp_path / "bad.dcm", glyph(40, 32), spacing=spacing)
    with pytest.raises(InputError, match=r"bad\.dcm: spacing"):
        read(tmp_path / "bad.dcm")


def test_truncated_and_overclaiming(tmp_path):
    write_dicom(tmp_path / "a.dcm", volume(4, 40, 32))
    content = (tmp_path / "a.dcm").read_bytes()
    for keep in (0.02, 0.2, 0.6, 0.95):
        (tmp_path / "a.dcm").write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(InputError, match=r"a\.dcm") as caught:
            read(tmp_path / "a.dcm")
        assert PATIENT not in str(caught.value)
    (tmp_path / "a.dcm").write_bytes(content)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.NumberOfFrames = 2_000_000_000
    dataset.save_as(tmp_path / "big.dcm")
    with pytest.raises(InputError, match=r"big\.dcm: declares 2000000000"):
        read(tmp_path / "big.dcm")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti(tmp_path, suffix):
    data = volume(3, 40, 30)
    affine = np.diag([-0.0113, -0.0039, 0.12, 1])
    path = tmp_path / f"scan à{suffix}"
    nibabel.save(nibabel.Nifti1Image(data.T, affine), path)
    image = read(path)
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113), rel=1e-5)


def test_nifti_units(tmp_path):
    image = nibabel.Nifti1Image(glyph(40, 30).T, np.diag([11.3, 3.9, 1, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "um.nii")
    assert read(tmp_path / "um.nii").spacing == pytest.approx((0.0039, 0.0113), rel=1e-5)
    image = nibabel.Nifti1Image(glyph(40, 30).T, None)
    image.header.set_xyzt_units("unknown")
    nibabel.save(image, tmp_path / "none.nii")
    assert read(tmp_path / "none.nii").spacing is None


def test_nifti_damage(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for keep in (0.02, 0.5, 0.9):
            (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
            with pytest.raises(InputError, match=r"a\.nii"):
                read(tmp_path / name)
    image = nibabel.Nifti1Image(glyph(40, 30), np.eye(4))
    nibabel.save(image, tmp_path / "zero.nii")
    content = bytearray((tmp_path / "zero.nii").read_bytes())
    content[80:88] = bytes(8)  # the pixel sizes
    (tmp_path / "zero.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"zero\.nii.*pixdim"):
        read(tmp_path / "zero.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9, 2), np.uint8), np.eye(4)), tmp_path / "4d.nii")
    with pytest.raises(InputError, match=r"4d\.nii: has the shape \(9, 9, 9, 2\)"):
        read(tmp_path / "4d.nii")
