"""Masks as DICOM Segmentation of the type BINARY, which refers to the DICOM image it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_claps import __version__
from napari_claps.errors import ClapsError, InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.io.optional import require
from napari_claps.results.saved_result import SavedResult
from napari_claps.types import BoxSource
from napari_claps.words.appearance import label_colour, shown_name
from napari_claps.words.vocabulary import TARGETS, Kind

SNOMED: dict[str, tuple[str, str]] = {
    "vessel": ("59820001", "Blood Vessel"),
    "artery": ("51114001", "Artery"),
    "vein": ("29092000", "Vein"),
    "optic_disc": ("81016008", "Optic nerve head"),
    "haemorrhage": ("50960005", "Hemorrhage"),
    "retina": ("5665001", "Retina"),
}
"""Targets whose code is among those that DICOM uses (PS3.16); the others have a code of our own scheme."""

SCHEME = "99CLAPS"
"""Private coding scheme: the ids of our vocabulary."""

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
           "StudyTime", "ReferringPhysicianName")  # fmt: skip
"""What a DICOM file must have and may leave empty."""

ALLOWED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
           "PositionReferenceIndicator", "Modality", "Rows", "Columns", "NumberOfFrames", "PixelSpacing",
           "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
           "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "LossyImageCompression",
           "LossyImageCompressionRatio", "LossyImageCompressionMethod")  # fmt: skip
"""What is looked at in the source: references and geometry, nothing about the patient."""

_STRUCTURE = ("91723000", "Anatomical Structure")
_ABNORMAL = ("49755003", "Morphologically Abnormal Structure")
_ANATOMY = {"vessel", "artery", "vein", "optic_disc", "optic_cup", "foveal_avascular_zone", "retina", "rpe_bm_complex"}
_EYE = ("81745001", "Eye")
_DEFLATED = "1.2.840.10008.1.2.1.99"


def write_dicom_seg(
    result: SavedResult, path: Path, *, source: Path | None = None, keep_patient: bool = False
) -> list[Path]:
    """Write one binary segment per target; objects of a target are not told apart.

    Parameters
    ----------
    result : SavedResult
    path : Path
    source : Path
        The DICOM file that was segmented.
    keep_patient : bool
        Copy name, number and birth date of the patient and the data of the study, which an archive needs to file the
        result. They are empty otherwise, and only the UIDs lead to the image.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        If highdicom is missing, the source is not given, no DICOM file, of another size, or without the UIDs that
        a reference needs.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Frames without a pixel are left out, except when there is none with any. If the source places its frames in
    patient coordinates, so does the segmentation. Most ophthalmic images do not; then each frame refers to its frame
    of the source by number, and the frames of a volume are a stack in their order.
    """
    if source is None:
        raise InputError(
            f"{path}: a DICOM segmentation refers to the DICOM image that was segmented. Give it with --source, or "
            "choose nifti or ome-zarr if the image was no DICOM file."
        )
    require("highdicom", extra="export", what=f"{path}: writing DICOM Segmentation")
    image = _read_source(source, result, keep_patient=keep_patient)
    try:
        dataset = _segmentation(image, result)
    except (ClapsError, MemoryError):
        raise
    except Exception as error:  # highdicom checks the source as it goes
        raise InputError(
            f"{source}: no segmentation can refer to it ({type(error).__name__}: {str(error)[:200]}). "
            "Export as nifti or ome-zarr instead."
        ) from error
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return [path]


def _read_source(path: Path, result: SavedResult, *, keep_patient: bool) -> Any:
    """References, geometry and, if wished, the patient: a dataset without pixels."""
    pydicom = require("pydicom", extra="formats", what=f"{path}: reading DICOM")
    try:
        if pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
            raise InputError(f"{path}: is a deflated DICOM file, which is not read. Save it uncompressed.")
        found = pydicom.dcmread(path, stop_before_pixels=True)
        kept = (*ALLOWED, "SpecificCharacterSet", *(PATIENT if keep_patient else ()))
        image = pydicom.Dataset()
        for keyword in kept:
            if keyword in found:
                image[keyword] = found[keyword]
        for keyword in PATIENT:
            image.setdefault(keyword, None)
        _complete(image)
        image.file_meta = found.file_meta
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: is no DICOM file, or a damaged one ({type(error).__name__}). A DICOM segmentation needs the "
            "DICOM image that was segmented; choose nifti or ome-zarr if there is none."
        ) from error
    missing = [uid for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
               if not image.get(uid)]  # fmt: skip
    if missing:
        raise InputError(f"{path}: has no {' and no '.join(missing)}, so that nothing can refer to it.")
    n_frames = int(image.get("NumberOfFrames") or 1)
    result.check_size((n_frames,) * (n_frames > 1 or len(result.shape) == 3)
                      + (int(image.get("Rows", 0)), int(image.get("Columns", 0))), path)  # fmt: skip
    return image


def _complete(image: Any) -> None:
    """Put what photographs leave out, and others say per frame, where highdicom looks for it."""
    from pydicom import Dataset

    image.NumberOfFrames = int(image.get("NumberOfFrames") or 1)
    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [Dataset()]
    shared = image.SharedFunctionalGroupsSequence[0]
    if not shared.get("PixelMeasuresSequence"):
        groups = image.get("PerFrameFunctionalGroupsSequence", ())
        said = [item for group in groups for item in group.get("PixelMeasuresSequence", ())] or [image]
        spacings = {tuple(item.get("PixelSpacing") or ()) for item in said}
        measures = Dataset()
        if len(spacings) == 1 and (spacing := spacings.pop()):
            measures.PixelSpacing = list(spacing)
        shared.PixelMeasuresSequence = [measures]


def _segmentation(image: Any, result: SavedResult) -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.seg import Segmentation
    from highdicom.spatial import get_image_coordinate_system
    from highdicom.uid import UID

    masks = np.empty((result.n_slices, *result.shape[-2:], len(result.names)), bool)
    for number, name in enumerate(result.names):
        for index, plane in enumerate(result.planes(name)):
            masks[index, :, :, number] = plane > 0
    stack = result.n_slices > 1 and get_image_coordinate_system(image) is None
    dataset = Segmentation(
        [_first_frame(image) if stack else image], masks[:1] if stack else masks, "BINARY", _segments(result),
        series_instance_uid=UID(), series_number=1, sop_instance_uid=UID(), instance_number=1,
        manufacturer="napari-claps", manufacturer_model_name="napari-claps", software_versions=__version__,
        device_serial_number="none", content_label="RETINA", series_description="napari-claps, research use only",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="Targets of napari-claps")],
    )  # fmt: skip
    if stack:
        _stack_frames(dataset, image, masks)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    if not shared.PixelMeasuresSequence[0].get("PixelSpacing"):  # unknown
        del shared.PixelMeasuresSequence
    return dataset


def _first_frame(image: Any) -> Any:
    """The source as if it had one frame: highdicom takes several only with patient coordinates."""
    import pydicom

    first = pydicom.Dataset(image)
    first.file_meta = image.file_meta
    first.NumberOfFrames = 1
    if frames := image.get("PerFrameFunctionalGroupsSequence"):
        first.PerFrameFunctionalGroupsSequence = [frames[0]]
    return first


def _stack_frames(dataset: Any, image: Any, masks: np.ndarray) -> None:
    """Replace the one frame by all that hold a pixel, each with the number of its source frame.

    `masks` is (frame, y, x, segment).
    """
    from pydicom.pixels import pack_bits

    present = np.argwhere(masks.any(axis=(1, 2)).T)  # (segment, frame), sorted
    if not len(present):
        present = np.argwhere(np.ones((masks.shape[3], masks.shape[0]), bool))
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame_groups(image, segment=segment + 1, frame=frame + 1) for segment, frame in present.tolist()
    ]
    dataset.NumberOfFrames = len(present)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:  # of a single segment
        del shared.SegmentIdentificationSequence
    organisation = dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID
    dataset.DimensionIndexSequence = [
        _dimension(organisation, "ReferencedSegmentNumber", "SegmentIdentificationSequence"),
        _dimension(organisation, "InStackPositionNumber", "FrameContentSequence"),
    ]
    frames = np.stack([masks[frame, :, :, segment] for segment, frame in present])
    dataset.PixelData = pack_bits(frames.astype(np.uint8), pad=True)


def _frame_groups(image: Any, *, segment: int, frame: int) -> Any:
    """What a frame shows: its segment, its place in the stack and its frame of the source, counted from 1."""
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    source, derivation, content, number, group = (Dataset() for _ in range(5))
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    source.ReferencedFrameNumber, source.SpatialLocationsPreserved = frame, "YES"
    source.PurposeOfReferenceCodeSequence = [_code(codes.DCM.SourceImageForImageProcessingOperation)]
    derivation.SourceImageSequence = [source]
    derivation.DerivationCodeSequence = [_code(codes.cid7203.SegmentationImageDerivation)]
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", frame, [segment, frame]
    number.ReferencedSegmentNumber = segment
    group.FrameContentSequence, group.SegmentIdentificationSequence = [content], [number]
    group.DerivationImageSequence = [derivation]
    return group


def _dimension(organisation: str, keyword: str, group: str) -> Any:
    from pydicom import Dataset
    from pydicom.datadict import dictionary_description, tag_for_keyword

    item = Dataset()
    item.DimensionOrganizationUID = organisation
    item.DimensionIndexPointer = tag_for_keyword(keyword)
    item.FunctionalGroupPointer = tag_for_keyword(group)
    item.DimensionDescriptionLabel = dictionary_description(keyword)
    return item


def _code(code: Any) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme_designator, code.meaning)


def _segments(result: SavedResult) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import Code, codes

    bundle = result.provenance.get("bundle") or {}
    algorithm = AlgorithmIdentificationSequence(
        name=f"napari-claps {bundle.get('name', '')}".strip()[:64],
        version=str(bundle.get("version") or __version__)[:64], family=codes.DCM.ArtificialIntelligence,
    )  # fmt: skip
    # Without a provenance it is not known whether a hand has changed the masks.
    edited = not result.provenance or any(box.source is BoxSource.USER for box in result.boxes)
    segments = []
    for number, name in enumerate(result.names, start=1):
        target = TARGETS.get(name)
        shown = shown_name(name)[:64]
        value, meaning = SNOMED.get(name, (None, shown))
        kind = _STRUCTURE if name in _ANATOMY or (target and target.kind is Kind.TREE) else _ABNORMAL
        segments.append(SegmentDescription(
            segment_number=number, segment_label=shown,
            segmented_property_category=Code(kind[0], "SCT", kind[1]),
            segmented_property_type=Code(value, "SCT", meaning) if value else Code(name[:64], SCHEME, shown),
            algorithm_type="SEMIAUTOMATIC" if edited else "AUTOMATIC", algorithm_identification=algorithm,
            anatomic_regions=[Code(_EYE[0], "SCT", _EYE[1])],
            display_color=CIELabColor.from_rgb(*label_colour(name)),
        ))  # fmt: skip
    return segments
