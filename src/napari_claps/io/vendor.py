"""Topcon ``.fda``/``.fds``, Optovue and Bioptigen ``.OCT`` and Zeiss ``.img``, through oct-converter.

None of these could be tried on a real file; see :func:`read_vendor`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.isolated import read_isolated
from napari_claps.io.optional import require, require_installed
from napari_claps.io.pixels import check_claim, grey_or_rgb
from napari_claps.types import Modality, RetinalImage, SpacingSource

# Zeiss .img files have no header: these are the cubes whose size in bytes says which they are.
_ZEISS_CUBES = {1024 * 512 * 128: (512, 128), 1024 * 200 * 200: (200, 200)}

_TOPCON_RASTER = 2  # scan mode; 3 is radial, 4 a cross


def read_vendor(path: Path) -> RetinalImage:
    """Read a file of Topcon, Optovue, Bioptigen or Zeiss, in a child process.

    Parameters
    ----------
    path : Path
        ``.fda``, ``.fds``, ``.oct`` or ``.img``. An Optovue ``.OCT`` needs the ``.txt`` of the same name beside it.

    Returns
    -------
    RetinalImage
        (z, y, x) in the dtype of the file (Topcon and Bioptigen up to 16 bit, Optovue float).

    Raises
    ------
    InputError
        If oct-converter is missing, or the file is truncated, damaged or of an unknown variant.

    Notes
    -----
    Only Topcon files tell their pixel size. oct-converter fills in placeholders
    for the others, which are not passed on: their spacing is None.
    """
    require_installed("oct_converter", extra="vendor", what=f"{path}: reading {path.suffix}")
    return read_isolated(f"{__name__}:parse_vendor", path)


def parse_vendor(path: Path) -> RetinalImage:
    """Read in this process; :func:`read_vendor` calls it in a child."""
    # oct-converter 0.7 uses the binary mode of fromstring, which NumPy 2.3 removed. We are alone in this process.
    setattr(np, "fromstring", np.frombuffer)  # noqa: B010 - a type checker refuses the plain way
    readers = require("oct_converter.readers", extra="vendor", what=f"{path}: reading {path.suffix}")
    match path.suffix.lower():
        case ".fda":
            return _fda(readers.FDA(path), path)
        case ".fds":
            return _fds(readers.FDS(path), path)
        case ".img":
            return _zeiss(readers.IMG(path), path)
        case _ if path.with_suffix(".txt").exists():
            return _optovue(readers.POCT(path), path)
        case _:
            return _bioptigen(readers, path)


def _image(slices: Any, path: Path, device: str, **known: Any) -> RetinalImage:
    if slices is None or len(slices) == 0:
        raise InputError(f"{path}: holds no OCT scan that is understood.")
    shapes = {np.shape(plane) for plane in slices}
    if len(shapes) > 1:
        raise InputError(f"{path}: its B-scans have different sizes; they are no single volume.")
    data = np.ascontiguousarray(slices)
    data, rgb = grey_or_rgb(data, str(path), colour=data.ndim == 4)
    if len(data) == 1:
        data = data[0]
        if known.get("spacing"):
            known["spacing"] = known["spacing"][1:]
    return RetinalImage(
        data, rgb=rgb, modality=Modality.OCT, source=str(path), device=device,
        spacing_source=SpacingSource.FILE if known.get("spacing") else SpacingSource.NONE, **known,
    )  # fmt: skip


def _topcon_spacing(reader: Any, header: Any) -> dict[str, Any]:
    """Spacing (z, y, x) in mm where the file has it; radial and cross scans have no distance of slices."""
    width_slice_height = reader.read_scan_params(header)
    if not width_slice_height:
        return {"spacing": None}
    x, z, y = (float(s) for s in width_slice_height)
    if not all(np.isfinite(s) and s > 0 for s in (x, y)):
        return {"spacing": None}
    if header.get("scan_mode") != _TOPCON_RASTER or not (np.isfinite(z) and z > 0):
        return {"spacing": None, "plane_spacing": (y, x)}
    return {"spacing": (z, y, x)}


def _topcon_laterality(reader: Any) -> str | None:
    for chunk in (b"@CAPTURE_INFO_02", b"@CAPTURE_INFO"):
        if chunk in reader.chunk_dict:
            return {0: "R", 1: "L"}.get(reader.read_any_info_and_make_dict(chunk).get("eye"))
    return None


def _fda(reader: Any, path: Path) -> RetinalImage:
    slices, header = reader.read_oct_data_chunk()
    if slices is None:
        raise InputError(f"{path}: holds no OCT scan that is understood.")
    layers = {}
    if isinstance(reader.chunk_dict.get(b"@CONTOUR_INFO", [None])[0], list):  # oct-converter needs more than one
        height = header["height"]
        for name, from_bottom in reader.read_segmentation().items():
            depth = (height - from_bottom).astype(np.float32)
            depth[(depth < 0) | (depth >= height)] = np.nan
            if depth.shape == (len(slices), np.shape(slices[0])[1]):
                layers[str(name)] = depth
    return _image(slices, path, "Topcon", **_topcon_spacing(reader, header),
                  laterality=_topcon_laterality(reader), layers=layers)  # fmt: skip


def _fds(reader: Any, path: Path) -> RetinalImage:
    # Nothing about the patient is read: it must not leak, and an unusual value in it stops oct-converter.
    reader.read_all_metadata = lambda: {"capture_info": {"cap_date": (2000, 1, 1)}}
    scan = reader.read_oct_volume()
    return _image(scan.volume, path, "Topcon", **_topcon_spacing(reader, scan.oct_header),
                  laterality=_topcon_laterality(reader))  # fmt: skip


def _side_in_name(path: Path) -> str | None:
    """Eye in a file name, where Zeiss and Bioptigen write OD or OS; not in the middle of a word, as in ROSSI."""
    sides = {{"D": "R", "S": "L"}[side] for side in re.findall(r"(?<![^\W_])O([DS])(?![^\W_])", path.name)}
    return sides.pop() if len(sides) == 1 else None


def _zeiss(reader: Any, path: Path) -> RetinalImage:
    size = path.stat().st_size
    if size not in _ZEISS_CUBES:
        known = ", ".join(f"{w} x {n} (1024 deep, {s} bytes)" for s, (w, n) in _ZEISS_CUBES.items())
        raise InputError(f"{path}: {size} bytes are none of the known Zeiss cubes: {known}.")
    scan = reader.read_oct_volume(rows=1024, cols=_ZEISS_CUBES[size][0])
    return _image(scan.volume, path, "Carl Zeiss Meditec", laterality=_side_in_name(path))


def _optovue(reader: Any, path: Path) -> RetinalImage:
    reader._read_filespec()
    if not reader.scan_info:
        raise InputError(f"{path.with_suffix('.txt')}: does not describe a scan; is it the file of the Optovue export?")
    first = reader.scan_info[0]
    check_claim(str(path), (first["number"], first["height"], first["length"]), 4, path.stat().st_size,
                compressed=False)  # fmt: skip
    # Every scan after the first repeats the bytes of the first.
    scan = reader.read_oct_volume()[0]
    return _image(scan.volume, path, "Optovue", laterality=scan.laterality or None,
                  metadata={"series": f"1 of {len(reader.scan_info)}"})  # fmt: skip


def _bioptigen(readers: Any, path: Path) -> RetinalImage:
    from oct_converter.exceptions import InvalidOCTReaderError

    try:
        reader = readers.BOCT(path)
    except InvalidOCTReaderError as error:
        raise InputError(
            f"{path}: is no Bioptigen file. If it is of Optovue, put the .txt of the same name beside it."
        ) from error
    volumes = reader.read_oct_volume()
    frames, size = reader.frames, path.stat().st_size
    pixels = frames.Ascans * frames.depth
    # oct-converter fills what is missing with whatever was in memory.
    if any(f.count != pixels or f.abs_pos + 2 * f.count > size for f in frames.data):
        raise InputError(f"{path}: is truncated or damaged; copy or export it again.")
    if all(len(v.volume) == 1 for v in volumes):  # linear scans come as many volumes of one slice
        slices, series = [v.volume[0].T for v in volumes], "1 of 1"
    else:
        slices, series = [plane.T for plane in volumes[0].volume], f"1 of {len(volumes)}"
    return _image(slices, path, "Bioptigen", laterality=_side_in_name(path), metadata={"series": series})
