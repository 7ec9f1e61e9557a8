"""Masks as NIfTI, read again with nibabel."""

from __future__ import annotations

import numpy as np
import pytest

from napari_claps.errors import InputError, OutputError
from napari_claps.io import read
from napari_claps.results.export import export
from tests.saved_results import NAMES, SPACING, f_masks, write_result

nibabel = pytest.importorskip("nibabel", reason="the extra 'formats' is not installed")


def test_every_target_in_place_with_spacing(tmp_path):
    masks = write_result(tmp_path / "a")
    paths = export(tmp_path / "a", tmp_path / "Ordner ü" / "eye.nii.gz")
    names = ("retina", "drusen", "intraretinal_fluid", "dark_spots")
    assert [path.name for path in paths] == [f"eye_{name}.nii.gz" for name in names]
    assert sorted(paths) == sorted((tmp_path / "Ordner ü").iterdir())
    for name, path in zip(NAMES, paths, strict=True):
        image = nibabel.load(path)
        data = np.asanyarray(image.dataobj)
        assert data.dtype == np.uint16 and data.shape == (33, 40, 4)
        # Voxel by voxel, so that no transposition can hide.
        for z, y, x in ((0, 0, 0), (1, 5, 8), (3, 20, 9), (2, 34, 10), (1, 0, 32)):
            assert data[x, y, z] == masks[name][z, y, x]
        np.testing.assert_array_equal(data.transpose(2, 1, 0), masks[name])
        assert image.header.get_zooms() == pytest.approx(SPACING[::-1])
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header["qform_code"] == 0 and image.header["sform_code"] == 0  # nobody knows how the eye lay
        assert b"orientation of the patient unknown" in bytes(image.header["descrip"])
        assert image.header.get_intent()[0] == "label"
        np.testing.assert_allclose(nibabel.affines.voxel_sizes(image.affine), SPACING[::-1], rtol=1e-6)


def test_our_reader_takes_it_back(tmp_path):
    masks = write_result(tmp_path / "a", masks={"drusen": f_masks()["drusen"]})
    [path] = export(tmp_path / "a", tmp_path / "eye.nii")
    assert path == tmp_path / "eye.nii"
    image = read(path)
    np.testing.assert_array_equal(image.data, masks["drusen"])
    assert image.spacing == pytest.approx(SPACING)


def test_no_spacing_is_said(tmp_path):
    write_result(tmp_path / "a", masks={"drusen": f_masks()["drusen"]}, spacing=None)
    [path] = export(tmp_path / "a", tmp_path / "eye.nii.gz")
    assert nibabel.load(path).header.get_xyzt_units()[0] == "unknown" and read(path).spacing is None


def test_plane_image(tmp_path):
    mask = f_masks()["drusen"][1]
    write_result(tmp_path / "a", masks={"drusen": mask}, spacing=(0.005, 0.007))
    [path] = export(tmp_path / "a", tmp_path / "eye.nii.gz")
    image = read(path)
    np.testing.assert_array_equal(image.data, mask)
    assert image.spacing == pytest.approx((0.005, 0.007))


@pytest.mark.parametrize("codes", [(1, 2), (0, 1), (1, 0), (0, 0)])
def test_geometry_of_a_nifti_source(tmp_path, codes):
    affine = np.array([[0, 0, -0.12, 9], [0.0113, 0, 0, -4], [0, -0.0039, 0, 2], [0, 0, 0, 1]])
    source = nibabel.Nifti1Image(np.zeros((33, 40, 4), np.uint8), affine)
    source.header.set_xyzt_units("mm", "sec")
    source.set_qform(affine if codes[0] else None, codes[0])
    source.set_sform(affine if codes[1] else None, codes[1])
    nibabel.save(source, tmp_path / "eye.nii.gz")
    write_result(tmp_path / "a", masks={"drusen": f_masks()["drusen"]}, source=tmp_path / "eye.nii.gz")
    [path] = export(tmp_path / "a", tmp_path / "m.nii.gz", source=tmp_path / "eye.nii.gz")
    expected, image = nibabel.load(tmp_path / "eye.nii.gz"), nibabel.load(path)
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-6)
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        np.testing.assert_allclose(image.header[field], expected.header[field], atol=1e-7)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, f_masks()["drusen"])


def test_source_of_another_size_or_damaged(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 40, 33), np.uint8), np.eye(4)), tmp_path / "turned.nii")
    write_result(tmp_path / "a", source=tmp_path / "turned.nii")
    with pytest.raises(InputError, match=r"turned\.nii: has 4 x 40 x 33 pixels .*, the masks have 33 x 40 x 4"):
        export(tmp_path / "a", tmp_path / "m.nii", source=tmp_path / "turned.nii")
    (tmp_path / "b.nii").write_bytes(b"x" * 400)
    write_result(tmp_path / "b", source=tmp_path / "b.nii")
    with pytest.raises(InputError, match=r"b\.nii: cannot be read as NIfTI"):
        export(tmp_path / "b", tmp_path / "m.nii", source=tmp_path / "b.nii")
    assert not list(tmp_path.glob("m*.nii"))


def test_all_files_or_none(tmp_path, monkeypatch):
    write_result(tmp_path / "a")
    real, calls = nibabel.save, []

    def fail_at_the_third(image, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(image, path)

    monkeypatch.setattr(nibabel, "save", fail_at_the_third)
    with pytest.raises(OutputError, match="No space left"):
        export(tmp_path / "a", tmp_path / "out" / "m.nii.gz")
    assert len(calls) == 3 and list((tmp_path / "out").iterdir()) == []


def test_no_file_is_replaced_unasked(tmp_path):
    write_result(tmp_path / "a")
    (tmp_path / "m_drusen.nii").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"m_drusen\.nii: is there already"):
        export(tmp_path / "a", tmp_path / "m.nii")
    assert [p.name for p in tmp_path.glob("m*")] == ["m_drusen.nii"]
    export(tmp_path / "a", tmp_path / "m.nii", overwrite=True)
    assert len(list(tmp_path.glob("m*"))) == 4 and nibabel.load(tmp_path / "m_drusen.nii").shape == (33, 40, 4)


def test_nibabel_is_missing(tmp_path, monkeypatch):
    import sys

    write_result(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(InputError, match=r'pip install "napari-claps\[formats\]"'):
        export(tmp_path / "a", tmp_path / "m.nii.gz")
