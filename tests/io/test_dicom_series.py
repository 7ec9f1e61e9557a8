"""A folder of DICOM files, one per slice, as one volume."""

from __future__ import annotations

import numpy as np
import pytest

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.types import Modality, SpacingSource
from tests.vendor_fixtures import PATIENT, glyph, volume, write_dicom

pydicom = pytest.importorskip("pydicom", reason="the extra 'formats' is not installed")

N = 11
"""Enough that names in plain order are in the wrong one."""


def write_series(folder, *, n=N, change=lambda dataset, z: None):
    """Write slices with names that tell nothing, in an order that is none; return the volume."""
    folder.mkdir(exist_ok=True)
    data = volume(n, 40, 32)
    for z in range(n):
        path = folder / f"IM{(z * 7 + 3) % n}.dcm"
        write_dicom(path, data[z], spacing=(0.0039, 0.0113))
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.InstanceNumber = "1.2.3", z + 1
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{z + 1}"
        change(dataset, z)
        dataset.save_as(path)
    return data


def test_in_the_order_of_the_instance_numbers(tmp_path):
    data = write_series(tmp_path / "Ordner mit Ü")
    image = read(tmp_path / "Ordner mit Ü")
    np.testing.assert_array_equal(image.data, data)
    assert image.spacing is None and image.plane_spacing == pytest.approx((0.0039, 0.0113))
    assert image.modality is Modality.OCT and PATIENT not in f"{image!r}"


@pytest.mark.parametrize("step", [0.12, -0.12])
def test_in_the_order_of_the_positions_with_their_distance(tmp_path, step):
    def place(dataset, z):
        dataset.InstanceNumber = 1 + (z * 5) % N  # some devices number by time
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]  # the normal is the y axis of the patient
        dataset.ImagePositionPatient = [1.5, 7 + step * z, -3]

    data = write_series(tmp_path / "s", change=place)
    image = read(tmp_path / "s")
    np.testing.assert_array_equal(image.data, data if step > 0 else data[::-1])
    assert image.spacing == pytest.approx((0.12, 0.0039, 0.0113)) and image.spacing_source is SpacingSource.FILE


def test_uneven_positions_give_an_order_and_no_distance(tmp_path):
    def place(dataset, z):
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, z**2 / 10]

    np.testing.assert_array_equal(read_series(tmp_path, place).data, volume(N, 40, 32))
    assert read(tmp_path / "s").spacing is None


def test_distance_that_the_files_say(tmp_path):
    def say(dataset, z):
        dataset.SpacingBetweenSlices = 0.25

    assert read_series(tmp_path, say).spacing == pytest.approx((0.25, 0.0039, 0.0113))


def read_series(folder, change):
    write_series(folder / "s", change=change)
    return read(folder / "s")


def test_scan_lines_of_the_slices(tmp_path):
    def place(dataset, z):
        location, frame = pydicom.Dataset(), pydicom.Dataset()
        location.ReferenceCoordinates = [300.0 - 10 * z, 50.0, 300.0 - 10 * z, 150.0]
        frame.OphthalmicFrameLocationSequence = [location]
        dataset.PerFrameFunctionalGroupsSequence = [frame]

    image = read_series(tmp_path, place)
    assert image.scan_lines.shape == (N, 2, 2) and image.scan_lines[3, 0].tolist() == [270, 50]
    # 32 columns of 0.0113 mm are 100 pixels of the localizer; the B-scans are 10 of them apart.
    assert image.spacing == pytest.approx((32 * 0.0113 / 10, 0.0039, 0.0113))


def test_several_series_are_refused_with_names(tmp_path):
    def part(dataset, z):
        dataset.SeriesInstanceUID = "1.2.3" if z else "1.2.4"

    write_series(tmp_path / "s", change=part)
    with pytest.raises(InputError, match=r"s: mixes 2 DICOM series: IM\d+\.dcm and IM\d+\.dcm belong .*different"):
        read(tmp_path / "s")


def test_slices_that_come_twice(tmp_path):
    write_series(tmp_path / "s")
    (tmp_path / "s" / "copy.dcm").write_bytes((tmp_path / "s" / "IM0.dcm").read_bytes())
    with pytest.raises(InputError, match=r"copy\.dcm and IM0\.dcm are the same image.*Remove one"):
        read(tmp_path / "s")

    def repeat(dataset, z):
        dataset.InstanceNumber = max(z, 1)

    write_series(tmp_path / "t", change=repeat)
    with pytest.raises(InputError, match="have the same instance number"):
        read(tmp_path / "t")


def test_other_files_sizes_and_volumes_among_the_slices(tmp_path):
    from PIL import Image

    write_series(tmp_path / "s")
    Image.fromarray(glyph(40, 32)).save(tmp_path / "s" / "photo.png")
    with pytest.raises(InputError, match=r"mixes DICOM files and pictures \(IM0\.dcm, photo\.png\)"):
        read(tmp_path / "s")
    (tmp_path / "s" / "photo.png").unlink()
    (tmp_path / "s" / "IM4.dcm").write_bytes((tmp_path / "s" / "IM4.dcm").read_bytes()[:600])
    with pytest.raises(InputError, match=r"IM4\.dcm: .*(damaged|no pixels)"):
        read(tmp_path / "s")
    one = tmp_path / "one"
    one.mkdir()
    write_dicom(one / "a.dcm", volume(4, 40, 32))
    with pytest.raises(InputError, match=r"a\.dcm: is a volume itself"):
        read(one)
