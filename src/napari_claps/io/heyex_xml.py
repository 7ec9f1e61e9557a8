"""HEYEX XML exports: an XML file beside the pictures of the localizer and the B-scans."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.file import read_file
from napari_claps.io.pixels import check_claim
from napari_claps.io.scan_geometry import circle_line, slice_distance, straight_lines
from napari_claps.types import Modality, RetinalImage, SpacingSource

MAX_XML_BYTES = 256 * 2**20

_CONTEXT = "OphthalmicAcquisitionContext"


def read_heyex_xml(path: Path) -> RetinalImage:
    """Read a HEYEX XML export with its pictures, which lie in the same folder.

    Parameters
    ----------
    path : Path
        The XML file.

    Returns
    -------
    RetinalImage
        (y, x) for one B-scan, (z, y, x) for several, uint8 as exported, with localizer, scan lines and
        layer lines. The distance of slices is computed from their positions, and the spacing is None
        (``plane_spacing`` is that of a slice) where they are not parallel and even.

    Raises
    ------
    InputError
        If the XML is damaged, has no OCT images, or a picture is missing or of another size.

    Notes
    -----
    The XML is read by the standard library: only scale, positions, eye and layer lines are looked at, so
    that a name, a date or an odd value in one can neither leak nor stop the reading.
    """
    images = _images(path)
    scans = [image for image in images if image.findtext("ImageType/Type") == "OCT"]
    if not scans:
        raise InputError(f"{path}: has no OCT image among its {len(images)} images.")
    localizers = [image for image in images if image.findtext("ImageType/Type") == "LOCALIZER"]
    laterality = next((t for image in scans if (t := image.findtext("Laterality")) in ("R", "L")), None)
    localizer = _localizer(localizers[0], path, laterality) if localizers else None

    first = _picture(scans[0], path)
    check_claim(str(path), (len(scans), *first.shape), 1, len(scans) * first.nbytes, compressed=False)
    data = np.empty((len(scans), *first.shape), first.dtype)
    for z, scan in enumerate(scans):
        picture = first if z == 0 else _picture(scan, path)
        if picture.shape != first.shape:
            raise InputError(f"{path}: picture {_name(scan)} has another size than {_name(scans[0])}.")
        data[z] = picture
    plane_spacing = _plane_spacing(scans[0], first.shape)
    if any(_plane_spacing(scan, first.shape) != plane_spacing for scan in scans):
        raise InputError(f"{path}: its B-scans have different pixel sizes; they are no single volume.")
    spacing, metadata = _spacing(scans, plane_spacing)
    return RetinalImage(
        data if len(scans) > 1 else data[0], modality=Modality.OCT, laterality=laterality, source=str(path),
        spacing=spacing, plane_spacing=plane_spacing, metadata=metadata,
        spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE,
        localizer=localizer, scan_lines=_scan_lines(scans, localizer, metadata["scan_pattern"]),
        layers=_layers(scans, first.shape), device="Heidelberg Engineering Spectralis",
    )  # fmt: skip


def pictures_of(path: Path) -> set[str]:
    """Return the names of the picture files that an export stands for; empty if it is damaged."""
    try:
        return {name for image in _images(path) if (name := _name(image))}
    except InputError:
        return set()


def _images(path: Path) -> list[ElementTree.Element]:
    if path.stat().st_size > MAX_XML_BYTES:
        raise InputError(f"{path}: an XML of more than {MAX_XML_BYTES // 2**20} MiB is no HEYEX export.")
    # HEYEX declares no encoding and writes names in that of the computer: they are not needed, so they may be garbled.
    text = path.read_bytes().decode("utf-8", errors="replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: declares XML entities, which no HEYEX export does; it is not read.")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: is damaged or truncated XML ({error}).") from error
    series = root.find("./BODY/Patient/Study/Series")
    if series is None:
        raise InputError(f"{path}: is no HEYEX export of a series (no Patient/Study/Series in it).")
    if len(root.findall(".//Series")) > 1:
        raise InputError(f"{path}: holds several series; export them from HEYEX one by one.")
    return series.findall("Image")


def _name(image: ElementTree.Element) -> str:
    """File name of a picture; the path before it is that of the computer that exported it."""
    return re.split(r"[\\/]", image.findtext("ImageData/ExamURL") or "")[-1]


def _picture(image: ElementTree.Element, path: Path) -> np.ndarray:
    name = _name(image)
    if not name:
        raise InputError(f"{path}: an image has no file name; export it again.")
    picture = read_file(path.parent / name)
    grey = picture.data
    if picture.is_volume or picture.rgb or grey.dtype != np.uint8:
        raise InputError(f"{path}: picture {name} is not an 8-bit grey image.")
    width, height = (int(image.findtext(f"{_CONTEXT}/{tag}", "0")) for tag in ("Width", "Height"))
    if (height, width) != grey.shape:
        raise InputError(
            f"{path}: picture {name} is {grey.shape[1]} x {grey.shape[0]}, but the export says {width} x {height}. "
            "It was changed after the export, and the pixel sizes would be wrong."
        )
    return grey


def _plane_spacing(image: ElementTree.Element, shape: tuple[int, ...]) -> tuple[float, float] | None:
    y, x = (image.findtext(f"{_CONTEXT}/{tag}") for tag in ("ScaleY", "ScaleX"))
    return None if y is None or x is None else (float(y), float(x))


def _localizer(image: ElementTree.Element, path: Path, laterality: str | None) -> RetinalImage:
    grey = _picture(image, path)
    spacing = _plane_spacing(image, grey.shape)
    return RetinalImage(
        grey, modality=Modality.SLO, laterality=laterality, spacing=spacing, source=f"{path} (localizer)",
        spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE,
    )  # fmt: skip


def _ends(scans: list[ElementTree.Element]) -> np.ndarray:
    """(n, 2, 2) start and end of the B-scans as (x, y) in mm; NaN where the export does not say."""
    return np.array([
        [[float(scan.findtext(f"{_CONTEXT}/{end}/Coord/{axis}", "nan")) for axis in "XY"] for end in ("Start", "End")]
        for scan in scans
    ])  # fmt: skip


def _spacing(
    scans: list[ElementTree.Element], plane_spacing: tuple[float, float] | None
) -> tuple[tuple[float, ...] | None, dict[str, Any]]:
    ends = _ends(scans)
    if len(scans) == 1:
        # The export does not name the pattern. The end of a circle is its centre, so that the length betrays it.
        length = float(np.linalg.norm(ends[0, 1] - ends[0, 0]))
        columns = int(scans[0].findtext(f"{_CONTEXT}/Width", "0"))
        straight = plane_spacing is None or not length < 0.5 * columns * plane_spacing[1]
        return plane_spacing, {"scan_pattern": "line" if straight else "circle"}
    distance = slice_distance(ends[:, 0], ends[:, 1])
    metadata: dict[str, Any] = {"scan_pattern": "unknown" if distance is None else "raster"}
    if distance is None or plane_spacing is None:
        return None, metadata
    return (distance, *plane_spacing), metadata


def _scan_lines(scans: list[ElementTree.Element], localizer: RetinalImage | None, pattern: str) -> np.ndarray | None:
    ends = _ends(scans)
    spacing = None if localizer is None else localizer.plane_spacing
    if pattern == "circle":
        return circle_line(ends[0, 0], ends[0, 1], spacing)
    return straight_lines(ends[:, 0], ends[:, 1], spacing)


def _layers(scans: list[ElementTree.Element], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    height, width = shape
    layers: dict[str, np.ndarray] = {}
    for z, scan in enumerate(scans):
        for line in scan.iterfind(".//SegLine"):
            name, values = line.findtext("Name"), (line.findtext("Array") or "").split()
            if not name or len(values) != width:
                continue
            depth = np.array(values, dtype=np.float32)
            depth[~((depth >= 0) & (depth < height))] = np.nan  # "no line here" is 3e+38
            layers.setdefault(name, np.full((len(scans), width), np.nan, np.float32))[z] = depth
    return {name: depth for name, depth in layers.items() if np.isfinite(depth).any()}
