"""Masks as DICOM Segmentation, read again with pydicom alone."""

from __future__ import annotations

import numpy as np
import pytest

from napari_claps.errors import InputError, OutputError
from napari_claps.results.export import export
from tests.saved_results import NAMES, f_masks, write_result
from tests.vendor_fixtures import PATIENT, volume, write_dicom

pydicom = pytest.importorskip("pydicom", reason="the extra 'formats' is not installed")
pytest.importorskip("highdicom", reason="the extra 'export' is not installed")

OP_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def write_source(path, data=None, *, placed: bool = False, **more):
    """A DICOM file with the UIDs and the patient that a real one has."""
    write_dicom(path, volume(4, 40, 33) if data is None else data, **more)
    ds = pydicom.dcmread(path)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber, ds.StudyID = "19400102", "F", PATIENT[:16], "S1"
    ds.StudyDate, ds.StudyTime, ds.ReferringPhysicianName, ds.OtherPatientIDs = "20200102", "101112", PATIENT, PATIENT
    ds.InstitutionName = ds.PatientAddress = ds.StudyDescription = ds.PatientComments = PATIENT
    if placed:
        ds.FrameOfReferenceUID = pydicom.uid.generate_uid()
        orientation = pydicom.Dataset()
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = [orientation]
        for z, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            position = pydicom.Dataset()
            position.ImagePositionPatient = [0, 0.12 * z, 0]
            group.PlanePositionSequence = [position]
    ds.save_as(path)
    return ds


def frames(dataset) -> dict[tuple[int, int], np.ndarray]:
    """(segment, source frame) -> (y, x) pixels, unpacked by hand."""
    n, height, width = int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    pixels = bits[: n * height * width].reshape(n, height, width)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = {}
    for plane, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        of = group if "SegmentIdentificationSequence" in group else shared
        segment = of.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID
        found[segment, int(source.get("ReferencedFrameNumber", 1))] = plane
    assert len(found) == n
    return found


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("names", [NAMES, NAMES[1:2]])
def test_volume(tmp_path, placed, names):
    source = tmp_path / "Auge ü.dcm"
    image = write_source(source, placed=placed)
    masks = write_result(tmp_path / "a", masks={name: f_masks()[name] for name in names}, source=source)
    assert export(tmp_path / "a", tmp_path / "ü" / "seg.dcm", source=source) == [tmp_path / "ü" / "seg.dcm"]
    found = pydicom.dcmread(tmp_path / "ü" / "seg.dcm")
    assert found.SOPClassUID == SEGMENTATION and found.SegmentationType == "BINARY" and found.BitsAllocated == 1
    assert (found.Rows, found.Columns) == (40, 33)  # 1320 bits: frames do not begin at whole bytes
    assert found.StudyInstanceUID == image.StudyInstanceUID and found.SeriesInstanceUID != image.SeriesInstanceUID
    planes = frames(found)
    expected = {(s, z + 1) for s, name in enumerate(names, 1) for z in range(4) if masks[name][z].any()}
    assert set(planes) == expected
    for (segment, frame), plane in planes.items():
        np.testing.assert_array_equal(plane, masks[names[segment - 1]][frame - 1] > 0)
    reference = found.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == image.SeriesInstanceUID
    assert reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [0.0039, 0.0113]
    assert ("FrameOfReferenceUID" in found) == placed
    if placed:
        places = {int(g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber):
                  list(g.PlanePositionSequence[0].ImagePositionPatient) for g in found.PerFrameFunctionalGroupsSequence}
        assert all(place == pytest.approx([0, 0.12 * (frame - 1), 0]) for frame, place in places.items())
    assert np.array_equal(found.pixel_array.reshape(-1, 40, 33), np.stack(list(planes.values())))


def test_segments_have_the_words_of_the_vocabulary(tmp_path):
    source = tmp_path / "a.dcm"
    write_source(source)
    write_result(tmp_path / "a", source=source)
    export(tmp_path / "a", tmp_path / "seg.dcm", source=source)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    retina, drusen, fluid, free = found.SegmentSequence
    assert [s.SegmentNumber for s in found.SegmentSequence] == [1, 2, 3, 4]
    assert [s.SegmentLabel for s in (retina, drusen, fluid, free)] == ["retina", "drusen", "intraretinal fluid",
                                                                       "dark µ/spots"]  # fmt: skip
    code = retina.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("5665001", "SCT")
    code = fluid.SegmentedPropertyTypeCodeSequence[0]
    assert (code.LongCodeValue, code.CodingSchemeDesignator) == ("intraretinal_fluid", "99CLAPS")
    # A box of the user's is among the boxes: a person had a hand in it.
    assert {s.SegmentAlgorithmType for s in found.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert drusen.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "napari-claps claps-tiny"


def test_highdicom_reads_it_again(tmp_path):
    from highdicom.seg import segread

    source = tmp_path / "a.dcm"
    image = write_source(source)
    masks = write_result(tmp_path / "a", source=source)
    export(tmp_path / "a", tmp_path / "seg.dcm", source=source)
    pixels = segread(tmp_path / "seg.dcm").get_pixels_by_source_frame(
        image.SOPInstanceUID, [1, 2, 3, 4], ignore_spatial_locations=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels, np.stack([mask > 0 for mask in masks.values()], axis=-1))


def test_snomed_codes_are_those_of_the_standard():
    from pydicom.sr._snomed_dict import mapping
    from pydicom.sr.codedict import codes

    from napari_claps.results.export import dicom_seg as module

    words = {"vessel": "BloodVessel", "artery": "Artery", "vein": "Vein", "optic_disc": "OpticNerveHead",
             "haemorrhage": "Hemorrhage", "retina": "Retina"}
    assert set(words) == set(module.SNOMED) and mapping
    for target, word in words.items():
        assert getattr(codes.SCT, word).value == module.SNOMED[target][0]
    assert codes.SCT.Eye.value == module._EYE[0]
    assert codes.SCT.MorphologicallyAbnormalStructure.value == module._ABNORMAL[0]


def test_nothing_of_the_patient_unless_asked(tmp_path):
    source = tmp_path / "a.dcm"
    write_source(source)
    write_result(tmp_path / "a", source=source)
    export(tmp_path / "a", tmp_path / "seg.dcm", source=source)
    content = (tmp_path / "seg.dcm").read_bytes()
    for secret in (PATIENT, PATIENT[:8], "19400102", "20200102", "101112"):
        assert secret.encode() not in content
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert found.PatientName == "" and found.PatientID in ("", None) and "PatientAddress" not in found
    export(tmp_path / "a", tmp_path / "kept.dcm", source=source, keep_patient=True)
    kept = pydicom.dcmread(tmp_path / "kept.dcm")
    assert kept.PatientName == PATIENT == kept.PatientID and kept.StudyDate == "20200102" and kept.PatientSex == "F"
    assert "PatientAddress" not in kept and "PatientComments" not in kept


@pytest.mark.parametrize("spacing", [None, (0.005, 0.007)])
def test_photograph(tmp_path, spacing):
    source = tmp_path / "a.dcm"
    colour = np.stack([volume(1, 40, 33)[0]] * 3, axis=-1)
    write_source(source, colour, sop_class=OP_8_BIT, modality="OP", spacing=spacing)
    masks = write_result(tmp_path / "a", masks={"optic_disc": f_masks()["drusen"][1]}, spacing=spacing, source=source)
    export(tmp_path / "a", tmp_path / "seg.dcm", source=source)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(found.pixel_array.reshape(40, 33), masks["optic_disc"] > 0)
    measures = found.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    assert (measures and tuple(measures[0].PixelSpacing)) == spacing
    assert found.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert found.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Optic nerve head"


@pytest.mark.parametrize("spacings", [[(0.004, 0.01)] * 4, [(0.004, 0.01), (0.004, 0.02)] * 2])
def test_spacing_per_frame(tmp_path, spacings):
    source = tmp_path / "a.dcm"
    image = write_source(source, spacing=None)
    for group, spacing in zip(image.PerFrameFunctionalGroupsSequence, spacings, strict=True):
        measures = pydicom.Dataset()
        measures.PixelSpacing = list(spacing)
        group.PixelMeasuresSequence = [measures]
    image.save_as(source)
    write_result(tmp_path / "a", source=source)
    export(tmp_path / "a", tmp_path / "seg.dcm", source=source)
    found = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    if len(set(spacings)) == 1:
        assert list(found[0].PixelSpacing) == [0.004, 0.01]
    else:  # no number holds for all
        assert found is None


@pytest.mark.parametrize("placed", [False, True])
def test_nothing_found_is_a_valid_file_of_zeros(tmp_path, placed):
    source = tmp_path / "a.dcm"
    write_source(source, placed=placed)
    empty = np.zeros((4, 40, 33), np.uint16)
    write_result(tmp_path / "a", masks={"drusen": empty, "shrm": empty}, source=source)
    export(tmp_path / "a", tmp_path / "seg.dcm", source=source)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert len(found.SegmentSequence) == 2 and not found.pixel_array.any() and set(frames(found)) == {
        (s, z) for s in (1, 2) for z in (1, 2, 3, 4)}


def test_only_from_the_dicom_that_was_segmented(tmp_path):
    write_result(tmp_path / "a")
    with pytest.raises(InputError, match=r"refers to the DICOM image.*Give it with --source, or choose nifti"):
        export(tmp_path / "a", tmp_path / "seg.dcm")
    np.save(tmp_path / "eye.npy", volume(4, 40, 33))
    write_result(tmp_path / "b", source=tmp_path / "eye.npy")
    with pytest.raises(InputError, match=r"eye\.npy: is no DICOM file, or a damaged one"):
        export(tmp_path / "b", tmp_path / "seg.dcm", source=tmp_path / "eye.npy")
    write_source(tmp_path / "other.dcm")
    with pytest.raises(InputError, match=r"other\.dcm: is not the image that"):
        export(tmp_path / "a", tmp_path / "seg.dcm", source=tmp_path / "other.dcm")
    write_source(tmp_path / "small.dcm", volume(3, 40, 33))
    write_result(tmp_path / "c", source=tmp_path / "small.dcm")
    with pytest.raises(InputError, match=r"small\.dcm: has 33 x 40 x 3 pixels .*, the masks have 33 x 40 x 4"):
        export(tmp_path / "c", tmp_path / "seg.dcm", source=tmp_path / "small.dcm")
    write_dicom(tmp_path / "bare.dcm", volume(4, 40, 33))
    write_result(tmp_path / "d", source=tmp_path / "bare.dcm")
    with pytest.raises(InputError, match="has no StudyInstanceUID and no SeriesInstanceUID"):
        export(tmp_path / "d", tmp_path / "seg.dcm", source=tmp_path / "bare.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_a_full_disc_leaves_nothing(tmp_path, monkeypatch):
    source = tmp_path / "a.dcm"
    write_source(source)
    write_result(tmp_path / "a", source=source)

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(OutputError, match=r"seg\.dcm: cannot be written \(No space left"):
        export(tmp_path / "a", tmp_path / "out" / "seg.dcm", source=source)
    assert list((tmp_path / "out").iterdir()) == []
