"""NIfTI files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.optional import require
from napari_claps.io.pixels import check_claim, grey_or_rgb
from napari_claps.io.units import mm_per
from napari_claps.types import RetinalImage, SpacingSource

MAP_FROM = 256 * 2**20
"""Uncompressed arrays of at least so many bytes are mapped, not loaded."""


def read_nifti(path: Path) -> RetinalImage:
    """Read a ``.nii`` or ``.nii.gz`` file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        NIfTI's (i, j, k) become (z=k, y=j, x=i), without any turning by the affine: an eye has no scanner
        coordinates, and what was written as B-scans comes back as B-scans.

    Raises
    ------
    InputError
        If nibabel is missing, the file is truncated or damaged, or has more than three axes.

    Notes
    -----
    The spacing are the lengths of the affine's columns, in the unit of the header.
    A header without a unit is taken as mm if it has a coordinate system (qform or
    sform), as all of NIfTI's are; without either, the spacing is unknown.
    """
    nibabel = require("nibabel", extra="formats", what=f"{path}: reading NIfTI")
    source = str(path)
    image = _load(nibabel, path)
    header = image.header
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    compressed = path.name.lower().endswith(".gz")
    check_claim(source, shape, dtype.itemsize, path.stat().st_size, compressed=compressed)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise InputError(f"{source}: has the shape {shape}; an image (x, y) or a volume (x, y, z) is understood.")
    data = np.asanyarray(image.dataobj).reshape(shape, order="A" if compressed else "F").T
    if not isinstance(data, np.memmap) or data.nbytes < MAP_FROM:
        data = np.array(data, order="C")
    if data.dtype.names:  # the RGB type of NIfTI
        data = np.stack([data[name] for name in data.dtype.names], axis=-1)
        data, rgb = grey_or_rgb(data, source, colour=True)
    else:
        data, rgb = grey_or_rgb(data, source, colour=False)
    spacing = _spacing(nibabel, image, len(shape))
    return RetinalImage(
        data, rgb=rgb, source=source, spacing=spacing,
        spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE,
    )  # fmt: skip


def _load(nibabel: Any, path: Path) -> Any:
    """Open a file without the corrections of nibabel, which makes 1 of a pixel size of 0, and prints it."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with nibabel.imageglobals.ErrorLevel(30):
            return nibabel.load(path)
    except nibabel.spatialimages.HeaderDataError as error:
        raise InputError(f"{path}: its header is damaged or impossible ({error}).") from error
    finally:
        logger.setLevel(level)


def _spacing(nibabel: Any, image: Any, n_axes: int) -> tuple[float, ...] | None:
    unit = image.header.get_xyzt_units()[0]
    placed = int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0
    factor = mm_per(unit) if unit != "unknown" else (1.0 if placed else None)
    if factor is None:
        return None
    sizes = nibabel.affines.voxel_sizes(image.affine)
    return tuple(float(s) * factor for s in sizes[:n_axes][::-1])
