"""Heidelberg Spectralis ``.vol`` files: line, circle, raster and star scans."""

from __future__ import annotations

import io
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.display import reflectivity_to_grey
from napari_claps.io.optional import require
from napari_claps.io.pixels import check_claim
from napari_claps.io.scan_geometry import circle_line, slice_distance, straight_lines
from napari_claps.types import Modality, RetinalImage, SpacingSource

HEADER_BYTES = 2048

# Examination time; scan, reference and patient ids, birth, visit; progression id. They are
# blanked before anything is parsed: what was never read cannot leak, and a broken date is no obstacle.
_IDENTIFIERS = ((88, 96), (104, 208), (224, 258))

_PATTERNS = {1: "line", 2: "circle", 3: "raster", 4: "raster", 5: "star"}
_LATERALITY = {"OD": "R", "OS": "L"}


def read_vol(path: Path) -> RetinalImage:
    """Read a ``.vol`` raw export.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        uint8 grey values by :func:`~napari_claps.io.display.reflectivity_to_grey`: (y, x) for line and
        circle scans, (z, y, x) for rasters and stars, with localizer, scan lines and layer lines. A star
        has no distance of slices: its spacing is None, ``plane_spacing`` is that of a slice.

    Raises
    ------
    InputError
        If eyepy is missing, or the file is truncated or damaged.
    """
    vol = require("eyepy.io.he.vol_reader", extra="formats", what=f"{path}: reading .vol")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        header = _header(vol, raw, str(path))
        n, height, width = header.n_bscans, header.size_y, header.size_x
        grey = np.empty((n, height, width), np.uint8)
        lines: dict[str, np.ndarray] = {}
        ends = np.empty((n, 2, 2))  # (x, y) of start and end, or centre of a circle
        raw.seek(HEADER_BYTES + header.localizer.size)
        scan_header = _without(vol.bscan_format, "data")  # parsed by eyepy, pixels would stay in memory for long
        for z in range(n):  # one at a time: the file holds four times the memory of the result
            scan = scan_header.parse_stream(raw, size_x=width, size_y=height)
            grey[z] = _grey(np.frombuffer(raw.read(4 * height * width), "<f4").reshape(height, width), header.version)
            ends[z] = (scan.start_x, scan.start_y), (scan.end_x, scan.end_y)
            _add_layers(lines, scan.layer_segmentations, vol.SEG_MAPPING, (n, height, width), z)
    return _assemble(header, grey, ends, lines, str(path))


def _header(vol: Any, raw: mmap.mmap, source: str) -> Any:
    head = bytearray(raw[:HEADER_BYTES])
    if len(head) < HEADER_BYTES:
        raise InputError(f"{source}: is truncated within its header ({len(head)} of {HEADER_BYTES} bytes).")
    width, n, height = struct.unpack_from("<3I", head, 12)
    slo_width, slo_height = struct.unpack_from("<2I", head, 48)
    slo_bytes = slo_width * slo_height
    room = len(raw) - HEADER_BYTES
    check_claim(source, (slo_height, slo_width), 1, room, compressed=False)
    check_claim(source, (n, height, width), 4, room - slo_bytes, compressed=False)
    for start, stop in _IDENTIFIERS:
        head[start:stop] = bytes(stop - start)
    content = io.BytesIO(head + raw[HEADER_BYTES : HEADER_BYTES + slo_bytes])
    return _without(vol.vol_format, "bscans").parse_stream(content)


def _without(structure: Any, name: str) -> Any:
    """The same binary structure without one of its parts."""
    return type(structure)(*(part for part in structure.subcons if part.name != name))


def _grey(data: np.ndarray, version: str) -> np.ndarray:
    valid = data[np.isfinite(data) & (data < 3e38)]
    if not version.startswith("HSF") and valid.size and valid.max() > 1:
        # Files written by eyepy may hold grey values already.
        return np.clip(np.nan_to_num(data, posinf=0), 0, 255).astype(np.uint8)
    return reflectivity_to_grey(data)


def _add_layers(lines: dict[str, np.ndarray], found: np.ndarray, numbers: dict[str, int],
                shape: tuple[int, int, int], z: int) -> None:  # fmt: skip
    n, height, width = shape
    for name, number in numbers.items():
        if number >= len(found):
            continue
        depth = found[number].astype(np.float32)
        depth[~((depth >= 0) & (depth < height))] = np.nan  # "no line here" is the largest float32
        lines.setdefault(name, np.full((n, width), np.nan, np.float32))[z] = depth


def _assemble(header: Any, grey: np.ndarray, ends: np.ndarray, lines: dict[str, np.ndarray],
              source: str) -> RetinalImage:  # fmt: skip
    pattern = _PATTERNS.get(header.scan_pattern, "unknown")
    laterality = _LATERALITY.get(header.scan_position.strip("\0 ").upper())
    slo_spacing: tuple[float, float] | None = (header.scale_y_slo, header.scale_x_slo)
    if slo_spacing and not all(np.isfinite(s) and s > 0 for s in slo_spacing):
        slo_spacing = None
    localizer = RetinalImage(
        np.array(header.localizer), modality=Modality.SLO, laterality=laterality, source=f"{source} (localizer)",
        spacing=slo_spacing, spacing_source=SpacingSource.FILE if slo_spacing else SpacingSource.NONE,
    )  # fmt: skip

    starts, stops = ends[:, 0], ends[:, 1]
    metadata: dict[str, Any] = {"scan_pattern": pattern}
    plane_spacing = (header.scale_y, header.scale_x)
    spacing: tuple[float, ...] | None
    if len(grey) == 1:  # a line or circle; its distance to the next slice is 0 in the file
        data, spacing = grey[0], plane_spacing
    else:
        data = grey
        distance = header.distance if pattern != "star" else None
        if distance is not None and not distance > 0:
            distance = slice_distance(starts, stops)
        spacing = None if distance is None else (distance, *plane_spacing)
    if pattern == "circle" and len(grey) == 1:
        scan_lines = circle_line(starts[0], stops[0], slo_spacing)
    else:
        scan_lines = straight_lines(starts, stops, slo_spacing)
    return RetinalImage(
        data, modality=Modality.OCT, spacing=spacing, plane_spacing=plane_spacing, laterality=laterality,
        source=source, metadata=metadata,
        spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE, localizer=localizer,
        scan_lines=scan_lines, layers={name: line for name, line in lines.items() if np.isfinite(line).any()},
        device="Heidelberg Engineering Spectralis" if header.version.startswith("HSF") else None,
    )  # fmt: skip
