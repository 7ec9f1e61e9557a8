"""Which program writes which foreign format: a table, and what holds for all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_claps.errors import ClapsError, InputError, OutputError
from napari_claps.results.open_result import open_result
from napari_claps.results.saved_result import SavedResult, check_free, section


@dataclass(frozen=True)
class ExportFormat:
    """A format for other programs.

    Parameters
    ----------
    name : str
        As on the command line.
    suffixes : tuple of str
        Lower case; the first one is usual.
    writer : str
        ``"module:function"``, imported on first use: (SavedResult, Path, keywords of `options`) -> list of paths.
    content : str
        For the help.
    options : tuple of str
        Which of ``source``, ``keep_patient``, ``copy_image`` and ``overwrite`` it understands; the last one only
        where it writes other files than the one that is asked for.
    """

    name: str
    suffixes: tuple[str, ...]
    writer: str
    content: str
    options: tuple[str, ...] = ()

    def load(self) -> Callable[..., list[Path]]:
        """Import and return the writer."""
        module, function = self.writer.split(":")
        return getattr(importlib.import_module(module), function)


_EXPORT = "napari_claps.results.export."

EXPORTS: dict[str, ExportFormat] = {
    kind.name: kind
    for kind in (
        ExportFormat("nifti", (".nii.gz", ".nii"), _EXPORT + "nifti:write_nifti",
                     "instance numbers with spacing, one file per target", ("source", "overwrite")),
        ExportFormat("dicom-seg", (".dcm",), _EXPORT + "dicom_seg:write_dicom_seg",
                     "DICOM Segmentation that refers to the DICOM image given by --source",
                     ("source", "keep_patient")),
        ExportFormat("ome-zarr", (".ome.zarr", ".zarr"), _EXPORT + "zarr:write_ome_zarr",
                     "chunked labels with colours and properties, for large volumes", ("source",)),
        ExportFormat("xlsx", (".xlsx",), _EXPORT + "xlsx:write_xlsx",
                     "spreadsheet of measurements, boxes and provenance"),
        ExportFormat("session", (".claps.zip",), _EXPORT + "session:write_result_session",
                     "everything in one file that opens in napari", ("source", "copy_image")),
    )
}  # fmt: skip
"""Name -> format."""


def find_format(name: str | None, path: Path) -> ExportFormat:
    """Return the format of this name, or without a name the one of the file's ending.

    Raises
    ------
    InputError
        If there is none, or name and ending contradict each other.
    """
    if name is not None and name not in EXPORTS:
        raise InputError(f"Unknown format {name!r}. Known are: {', '.join(EXPORTS)}.")
    endings = {suffix: kind for kind in EXPORTS.values() for suffix in kind.suffixes}
    ending = max((s for s in endings if path.name.lower().endswith(s)), key=len, default=None)
    if name is None:
        if ending is None:
            raise InputError(f"{path}: its ending says no format. Known are: {', '.join(endings)}; or give --to.")
        return endings[ending]
    if ending not in EXPORTS[name].suffixes:
        raise InputError(f"{path}: a file of the format {name} must end in {' or '.join(EXPORTS[name].suffixes)}.")
    return EXPORTS[name]


def export(
    result: SavedResult | str | Path, path: str | Path, *, to: str | None = None, source: str | Path | None = None,
    keep_patient: bool = False, copy_image: bool = False, overwrite: bool = False,
) -> list[Path]:  # fmt: skip
    """Write a result in a foreign format, whole or not at all.

    Parameters
    ----------
    result : SavedResult or path
        What to write; see `open_result`.
    path : path
        File to write.
    to : str, optional
        Name in `EXPORTS`; by default the ending of `path` decides.
    source : path, optional
        The image that was segmented.
    keep_patient : bool
        Copy the patient's data from the DICOM source; they are left out otherwise.
    copy_image : bool
        Put the pixels of the source into the session instead of its path.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    list of Path
        Files or folders written.

    Raises
    ------
    InputError
        If the result cannot be written in this format, or the source is not the image that was segmented.
    OutputError
        If the file is there already, or cannot be written.
    """
    path = Path(path)
    kind = find_format(to, path)
    if not isinstance(result, SavedResult):
        result = open_result(result)
    given: dict[str, Any] = {
        "source": None if source is None else Path(source), "keep_patient": keep_patient, "copy_image": copy_image,
    }  # fmt: skip
    for name, value in given.items():
        if value and name not in kind.options:
            raise InputError(f"{path}: --{name.replace('_', '-')} means nothing for the format {kind.name}.")
    if given["source"] is not None:
        _check_source(result, given["source"])
    if not overwrite:
        check_free([path])
    given["overwrite"] = overwrite
    options = {name: given[name] for name in kind.options}
    try:
        return kind.load()(result, path, **options)
    except ClapsError:
        raise
    except MemoryError as error:
        raise OutputError(
            f"{path}: the masks do not fit into the memory of this computer. OME-Zarr is written plane by plane."
        ) from error


def _check_source(result: SavedResult, source: Path) -> None:
    """Refuse an image that is not the one that was segmented, as far as the provenance knows."""
    from napari_claps.io.fingerprint import sha256_of

    expected = section(result.provenance, "input").get("sha256")
    found = sha256_of(source)
    if expected and found != expected:
        raise InputError(
            f"{source}: is not the image that {result.source} was made from (its SHA-256 begins with {found[:12]}, "
            f"not {expected[:12]}). Give the original file."
        )
