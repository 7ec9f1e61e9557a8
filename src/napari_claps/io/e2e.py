"""Heidelberg ``.e2e`` files. Never tried on a real file; see the notes of :func:`read_e2e`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.display import reflectivity_to_grey
from napari_claps.io.isolated import read_isolated
from napari_claps.io.optional import require
from napari_claps.io.pixels import check_claim
from napari_claps.types import Modality, RetinalImage

_BSCAN, _LOCALIZER = 35652097, 33620481  # kinds of image data
_LATERALITY = {82: "R", 76: "L"}
_PATTERNS = {1: "line", 2: "circle", 3: "raster", 4: "raster", 5: "star"}


def read_e2e(path: Path) -> RetinalImage:
    """Read the first OCT scan of an ``.e2e`` file, in a child process.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        (y, x) or (z, y, x) uint8 grey values by
        :func:`~napari_claps.io.display.reflectivity_to_grey`, with localizer and layer lines.
        ``metadata["series"]`` says which of how many scans it is.

    Raises
    ------
    InputError
        If eyepy is missing, or the file is damaged, truncated or has no OCT scan.

    Notes
    -----
    The spacing is None. Only the axial pixel size is in the file
    (``metadata["axial_spacing"]``, mm); the lateral positions are in degrees, and
    how many mm a degree is depends on the eye. For the same reason the scan
    lines cannot be placed on the localizer.

    The pixels are decoded by eyepy, which takes the bits of the mantissa in
    reverse order. Should that be wrong, grey values are off by at most 19 %.
    """
    require("eyepy.io.he.e2e_reader", extra="formats", what=f"{path}: reading .e2e")
    return read_isolated(f"{__name__}:parse_e2e", path)


def parse_e2e(path: Path) -> RetinalImage:
    """Read in this process; :func:`read_e2e` calls it in a child."""
    e2e = require("eyepy.io.he.e2e_reader", extra="formats", what=f"{path}: reading .e2e")
    with path.open("rb") as file:
        _check_chunks(file, path)
    with e2e.HeE2eReader(path) as reader:
        scans = []
        for series in reader.series:
            slices = [(s, data) for _, s in sorted(series.slices.items()) if (data := _image(s.folders, _BSCAN))]
            if slices:
                scans.append((series, slices))
        if not scans:
            raise InputError(f"{path}: holds no OCT scan; export one from HEYEX.")
        return _assemble(*scans[0], len(scans), path)


def _check_chunks(file: Any, path: Path) -> None:
    """Follow the chain of directories; eyepy would follow one that goes backwards for ever."""
    size = file.seek(0, 2)
    at, chunks = 36 + 52, 0
    while at + 52 <= size:
        file.seek(at)
        header = file.read(52)
        n = struct.unpack_from("<I", header, 36)[0]
        if n < 1 or at + 52 + 44 * n > size:  # here eyepy stops, too
            break
        file.seek(at + 52 + 44 * (n - 1))
        _, start, length = struct.unpack("<3I", file.read(12))
        chunks += 1
        following = start + length + 60
        if following <= at:
            raise InputError(f"{path}: its directory leads back to itself; the file is damaged.")
        at = following
    if not chunks:
        raise InputError(f"{path}: has no directory; the file is truncated or damaged.")


def _image(folders: Any, kind: int) -> Any:
    from eyepy.io.he.e2e_format import TypesEnum

    return next((f.data for f in folders.get(TypesEnum.image, []) if f.data.type == kind), None)


def _assemble(series: Any, slices: list[tuple[Any, Any]], n_series: int, path: Path) -> RetinalImage:
    from eyepy.io.he.e2e_format import TypesEnum

    first = slices[0][1]
    height, width = first.height, first.width
    check_claim(str(path), (len(slices), height, width), 2, path.stat().st_size, compressed=False)
    meta = slices[0][0].get_meta() if TypesEnum.bscanmeta in slices[0][0].folders else {}
    promised = int(meta.get("n_bscans", len(slices)))
    if promised > len(slices):
        raise InputError(f"{path}: holds {len(slices)} of {promised} B-scans; it is truncated or damaged.")
    grey = np.empty((len(slices), height, width), np.uint8)
    layers: dict[str, np.ndarray] = {}
    for z, (part, scan) in enumerate(slices):
        if (scan.height, scan.width) != (height, width):
            raise InputError(f"{path}: B-scan {z} has another size than the first; they are no single volume.")
        grey[z] = reflectivity_to_grey(np.where(scan.data > 1.99, -1, scan.data))  # about 2: not measured
        if TypesEnum.layer_annotation in part.folders:
            _add_layers(layers, part.get_layers(), grey.shape, z)

    metadata: dict[str, Any] = {
        "scan_pattern": _PATTERNS.get(int(meta.get("scan_pattern", 0)), "unknown"), "series": f"1 of {n_series}",
    }  # fmt: skip
    axial = float(meta.get("scale_y", 0))
    if 0.001 < axial < 0.02:  # a plausible axial pixel of an OCT, in mm
        metadata["axial_spacing"] = axial
    side = series.folders.get(TypesEnum.laterality)
    laterality = _LATERALITY.get(int(side[0].data.laterality)) if side else None
    enface = _image(series.folders, _LOCALIZER)
    localizer = None
    if enface is not None:
        localizer = RetinalImage(np.array(enface.data), modality=Modality.SLO, laterality=laterality, source=str(path))
    return RetinalImage(
        grey if len(slices) > 1 else grey[0], modality=Modality.OCT, laterality=laterality, source=str(path),
        metadata=metadata, localizer=localizer, device="Heidelberg Engineering",
        layers={name: line for name, line in layers.items() if np.isfinite(line).any()},
    )  # fmt: skip


def _add_layers(layers: dict[str, np.ndarray], found: dict[int, Any], shape: tuple[int, ...], z: int) -> None:
    from eyepy.io.he.vol_reader import SEG_MAPPING

    n, height, width = shape
    for name, number in SEG_MAPPING.items():
        depth = np.asarray(found.get(number, ()), dtype=np.float32).copy()
        if depth.shape != (width,):
            continue
        depth[~((depth >= 0) & (depth < height))] = np.nan
        layers.setdefault(name, np.full((n, width), np.nan, np.float32))[z] = depth
