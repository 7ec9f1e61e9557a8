"""DICOM: ophthalmic tomography, ophthalmic photography, wide-field and secondary capture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.optional import require
from napari_claps.io.pixels import check_claim, grey_or_rgb
from napari_claps.io.scan_geometry import slice_distance
from napari_claps.types import Modality, RetinalImage, SpacingSource

_WIDE_FIELD = ("1.2.840.10008.5.1.4.1.1.77.1.5.5", "1.2.840.10008.5.1.4.1.1.77.1.5.6")
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax, in the group at the start of the file
_JPEG_STARTS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")  # JPEG, JPEG 2000, JPEG 2000 in a JP2 box


def read_dicom(path: Path) -> RetinalImage:
    """Read the pixels of a DICOM file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        (y, x), (z, y, x) for several frames, with colour last for RGB. The spacing is in the functional
        groups of tomography, or in PixelSpacing. The distance of the B-scans is SpacingBetweenSlices or
        follows from the frame locations; if neither says, the spacing is None and
        ``plane_spacing`` is that of a slice. Nothing about the patient is kept.

    Raises
    ------
    InputError
        If pydicom or a decoder is missing, if there are no pixels, if they are scrambled (Zeiss), or if the
        file is truncated or damaged.

    Notes
    -----
    SliceThickness is not taken for the distance of the slices: a B-scan is as thick as the beam.
    """
    pydicom = require("pydicom", extra="formats", what=f"{path}: reading DICOM")
    source = str(path)
    dataset = read_dataset(path)
    _check_pixels(pydicom, dataset, source)
    data = pydicom.pixels.pixel_array(dataset)
    data, colour = _photometric(pydicom, dataset, data)
    if int(dataset.get("NumberOfFrames") or 1) == 1 and data.ndim == 3 + int(colour):
        data = data[0]
    data, rgb = grey_or_rgb(data, source, colour=colour)
    volume = data.ndim - int(rgb) == 3
    modality = _modality(dataset, rgb)
    known = _spacing(dataset, data.shape[: 3 if volume else 2], modality is Modality.OCT)
    return RetinalImage(
        data, rgb=rgb, modality=modality, source=source, **known,
        spacing_source=SpacingSource.FILE if "spacing" in known else SpacingSource.NONE,
        laterality=_laterality(dataset), scan_lines=_frame_locations(dataset, data.shape[0] if volume else 1),
        device=" ".join(str(part) for name in ("Manufacturer", "ManufacturerModelName")
                        if (part := dataset.get(name))) or None,
    )  # fmt: skip


def read_dataset(path: Path, **options: Any) -> Any:
    """Read a DICOM file as a dataset; `options` are those of ``pydicom.dcmread``.

    Raises
    ------
    InputError
        If pydicom is missing, or the file is deflated.
    """
    pydicom = require("pydicom", extra="formats", what=f"{path}: reading DICOM")
    # From memory: a damaged length cannot ask for more bytes than there are.
    content = path.read_bytes()
    if _DEFLATED in content[: 2**16]:  # it is inflated whole before anything can be checked: a way to fill the memory
        raise InputError(f"{path}: is a deflated DICOM file, which is not read. Save it uncompressed.")
    return pydicom.dcmread(io.BytesIO(content), **options)


def _check_pixels(pydicom: Any, dataset: Any, source: str) -> None:
    """Refuse, with the reason, what cannot be decoded; compare the claimed size with the bytes."""
    zeiss = "zeiss" in str(dataset.get("Manufacturer", "")).lower()
    scrambled = (
        f"{source}: is a Zeiss DICOM with scrambled pixels, which only software of Zeiss can open. "
        "Export it there as plain DICOM, TIFF or PNG."
    )
    if "PixelData" not in dataset:
        kind = getattr(dataset.get("SOPClassUID"), "name", "no image")
        raise InputError(scrambled if zeiss else f"{source}: holds no pixels (it is: {kind}).")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        name = getattr(syntax, "name", syntax)
        raise InputError(f"{source}: its pixels are stored as {name}; save it uncompressed to read it.") from None
    if not decoder.is_available:
        raise InputError(
            f"{source}: its pixels are stored as {syntax.name}, and no decoder for it is installed. "
            f'Install by: pip install "napari-claps[formats]", or one of: {"; ".join(decoder.missing_dependencies)}.'
        )
    shape = (
        int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns),
        int(dataset.get("SamplesPerPixel") or 1),
    )  # fmt: skip
    itemsize = max(1, int(dataset.BitsAllocated) // 8)
    # Videos, YBR_FULL_422 and single bits take less room than their pixels, without being "compressed".
    smaller = decoder.is_encapsulated or dataset.BitsAllocated == 1 or "422" in dataset.PhotometricInterpretation
    check_claim(source, shape, itemsize, len(dataset.PixelData), compressed=smaller)
    if decoder.is_encapsulated and "JPEG" in syntax.name:
        frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=shape[0]))
        if not frame.startswith(_JPEG_STARTS):
            raise InputError(scrambled if zeiss else f"{source}: its first frame is no JPEG; the file is damaged.")


def _photometric(pydicom: Any, dataset: Any, data: np.ndarray) -> tuple[np.ndarray, bool]:
    """Bring the pixels to grey with white up, or RGB; pydicom has converted YBR to RGB."""
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return pydicom.pixels.apply_color_lut(data, dataset), True
    if kind == "MONOCHROME1":
        top = -1 if data.dtype.kind == "i" else (1 << int(dataset.BitsStored)) - 1
        return np.array(top, data.dtype) - data, False
    return data, int(dataset.get("SamplesPerPixel") or 1) > 1


def _modality(dataset: Any, rgb: bool) -> Modality | None:
    """Modality as far as the file is clear about it; a grey photograph may be IR, FAF or an angiogram."""
    if dataset.get("SOPClassUID") in _WIDE_FIELD and rgb:  # a grey one may be an angiogram
        return Modality.UWF
    if dataset.get("Modality") == "OPT":
        return Modality.OCT
    cameras = dataset.get("AcquisitionDeviceTypeCodeSequence", ())
    by_fundus_camera = any("fundus camera" in str(item.get("CodeMeaning", "")).lower() for item in cameras)
    if dataset.get("Modality") == "OP" and rgb and by_fundus_camera:
        return Modality.CFP
    return None


def _groups(dataset: Any) -> list[Any]:
    """Functional groups that hold for all frames, then those of each frame."""
    return [*dataset.get("SharedFunctionalGroupsSequence", ()), *dataset.get("PerFrameFunctionalGroupsSequence", ())]


def _laterality(dataset: Any) -> str | None:
    sides = [dataset.get("ImageLaterality"), dataset.get("Laterality")]
    for group in _groups(dataset):
        sides += [anatomy.get("FrameLaterality") for anatomy in group.get("FrameAnatomySequence", ())]
    return next((str(side) for side in sides if side in ("R", "L")), None)


def _spacing(dataset: Any, shape: tuple[int, ...], tomography: bool) -> dict[str, Any]:
    measures = [m for group in _groups(dataset) for m in group.get("PixelMeasuresSequence", ())] or [dataset]
    planes = {tuple(float(v) for v in m.PixelSpacing) for m in measures if m.get("PixelSpacing")}
    if len(planes) != 1:  # not known, or another for each frame
        return {}
    plane = planes.pop()
    if len(shape) == 2:
        return {"spacing": plane}
    distance = measures[0].get("SpacingBetweenSlices")
    if distance is None and tomography:
        distance = distance_of_lines(_frame_locations(dataset, shape[0]), shape[2], plane[1])
    if distance is None:
        return {"plane_spacing": plane}
    return {"spacing": (float(distance), *plane)}


def distance_of_lines(lines: np.ndarray | None, n_columns: int, column_spacing: float) -> float | None:
    """Millimetres between parallel B-scans, from their places on the localizer.

    The length of a B-scan is known in mm and in pixels of the localizer, which gives the size of its pixels.

    Parameters
    ----------
    lines : ndarray or None
        (n, 2, 2) start and end (y, x) in pixels of the localizer.
    n_columns : int
        A-scans of a B-scan.
    column_spacing : float
        Millimetres between them.
    """
    if lines is None:
        return None
    pixels = float(np.linalg.norm(lines[0, 1] - lines[0, 0]))
    distance = slice_distance(lines[:, 0], lines[:, 1])
    if distance is None or pixels <= 0:
        return None
    return distance * n_columns * column_spacing / pixels


def _frame_locations(dataset: Any, n_frames: int) -> np.ndarray | None:
    """(n, 2, 2) start and end (y, x) of straight B-scans in pixels of the localizer, if there is one for each."""
    lines = []
    for group in dataset.get("PerFrameFunctionalGroupsSequence", ()):
        for place in group.get("OphthalmicFrameLocationSequence", ()):
            points = np.array([float(v) for v in place.get("ReferenceCoordinates", ())])  # row, column, row, column
            if place.get("OphthalmicImageOrientation", "LINEAR") == "LINEAR" and points.size == 4:
                lines.append(points.reshape(2, 2))
    return np.stack(lines) if lines and len(lines) == n_frames else None
