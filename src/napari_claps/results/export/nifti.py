"""Masks as NIfTI, for ITK-SNAP, 3D Slicer and nnU-Net."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps import __version__
from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.io.optional import require
from napari_claps.results.saved_result import SavedResult, check_free, file_names

GEOMETRY = ("pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
            "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z")  # fmt: skip
"""Fields of the header that place an image in space."""


def write_nifti(
    result: SavedResult, path: Path, *, source: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Write each mask as a label image of uint16 instance numbers.

    Parameters
    ----------
    result : SavedResult
    path : Path
        Of a single mask. Of several ones, each gets its name before the ending: ``eye_drusen.nii.gz``; targets
        may overlap (fluid lies in the retina), so they do not share an image.
    source : Path, optional
        The image. If it is a NIfTI file of the same size, its affine and units are taken over, so that both lie
        on each other in every viewer.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        If nibabel is missing, or the source is damaged or of another size.
    OutputError
        If a file is there already or cannot be written; none is, then.

    Notes
    -----
    (z, y, x) becomes NIfTI's (i, j, k) = (x, y, z): for OCT i is the A-scan, j the depth, k the B-scan, as our
    reader takes them. Without a NIfTI source nobody knows how the eye lay in space, so the file does not say: qform
    and sform have the code 0 ("unknown"), and only the voxel sizes are set, in mm. Neither RAS nor LPS is true of
    it. Without a spacing the sizes are 1 and their unit is "unknown".
    """
    nibabel = require("nibabel", extra="formats", what=f"{path}: writing NIfTI")
    template = None if source is None else _template(nibabel, source, result)
    ending = next(e for e in (".nii.gz", ".nii") if path.name.lower().endswith(e))
    stem = path.name[: -len(ending)]
    names = file_names(result.names)
    paths = {name: path if len(names) == 1 else path.with_name(f"{stem}_{names[name]}{ending}") for name in names}
    if not overwrite:
        check_free(paths.values())
    with ExitStack() as stack:
        for name, target in paths.items():
            temporary = stack.enter_context(atomic_path(target))
            nibabel.save(_image(nibabel, result, name, template), temporary)
    return list(paths.values())


def _image(nibabel: Any, result: SavedResult, name: str, template: Any) -> Any:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_intent("label", name=name.encode("ascii", "replace").decode()[:15])
    known = "orientation of the patient unknown" if template is None else "geometry of the source image"
    header["descrip"] = f"napari-claps {__version__}; {known}".encode()[:79]
    data = result.mask(name).T
    image = nibabel.Nifti1Image(data, None, header)  # without an affine, which would set the codes
    if template is not None:
        for field in GEOMETRY:
            image.header[field] = template.header[field]
        return image
    image.header.set_zooms(tuple(reversed(result.spacing)) if result.spacing else (1.0,) * data.ndim)
    image.header.set_xyzt_units("mm" if result.spacing else "unknown")
    image.header["qform_code"] = image.header["sform_code"] = 0
    return image


def _template(nibabel: Any, source: Path, result: SavedResult) -> Any:
    """The opened source if it is NIfTI, else None."""
    if not source.name.lower().endswith((".nii", ".nii.gz")):
        return None
    try:
        image = nibabel.load(source)
    except Exception as error:  # damaged bytes make nibabel raise anything
        raise InputError(f"{source}: cannot be read as NIfTI ({type(error).__name__}). The file is damaged.") from error
    if not hasattr(image, "header") or "qform_code" not in image.header:
        raise InputError(f"{source}: is no NIfTI file. Give the image that was segmented.")
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > len(result.shape) and shape[-1] == 1:
        shape = shape[:-1]
    result.check_size(shape[::-1], source)
    return image
