"""Folders: their images one by one, or their B-scans as one volume."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.dicom import distance_of_lines
from napari_claps.io.dicom_series import sort_series
from napari_claps.io.file import read_file
from napari_claps.io.formats import SUFFIXES, identify, is_readable, suffix_of
from napari_claps.io.heyex_xml import pictures_of
from napari_claps.io.pixels import check_claim
from napari_claps.types import RetinalImage, SpacingSource


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts ``B2`` before ``B10``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p]


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, in natural order.

    Of a HEYEX XML export only the XML file is returned, since it stands for the pictures it names.

    Raises
    ------
    InputError
        If the folder cannot be read, is empty or has no image.
    """
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError as error:
        raise InputError(f"{folder}: there is no such folder.") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be opened ({error.strerror or error}).") from error
    if not entries:
        raise InputError(f"{folder}: the folder is empty.")
    images = sorted((path for path in entries if is_readable(path)), key=natural_key)
    if not images:
        raise InputError(
            f"{folder}: no image among its {len(entries)} entries (folders inside are not searched). "
            f"Known are {', '.join(sorted(SUFFIXES))}."
        )
    exports = [path for path in images if suffix_of(path) == ".xml"]
    if exports:
        named = {name for export in exports for name in pictures_of(export)}
        images = [path for path in images if path.name not in named]
    return images


def list_inputs(paths: Iterable[str | Path]) -> list[Path]:
    """Expand folders to the image files in them; files stay as they are.

    Parameters
    ----------
    paths : iterable of path
        Files and folders. Folders are not searched recursively.

    Returns
    -------
    list of Path
        In the order given, folders in natural order, nothing twice.

    Raises
    ------
    InputError
        If nothing was given, a path is missing, or a folder is empty or has no image.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if os.path.isdir(path):  # unlike Path's, these do not raise for what must not be looked at
            files = images_in(path)
        elif os.path.exists(path):
            files = [path]
        else:
            raise InputError(f"{path}: there is no such file or folder, or it cannot be looked at.")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise InputError("No input was given: name image files or folders.")
    return list(found.values())


def read_folder_as_volume(folder: str | Path) -> RetinalImage:
    """Read the B-scans of a folder, in natural order of their names, as one volume.

    Parameters
    ----------
    folder : path

    Returns
    -------
    RetinalImage
        (z, y, x) or (z, y, x, 3). The distance of the slices is unknown, so the spacing is None; if all
        slices tell the same pixel size, ``plane_spacing`` is it. A folder with a HEYEX
        XML export is read by that. The files of a DICOM series are put in the order that they tell, which may
        give the distance, too.

    Raises
    ------
    InputError
        If the folder has no image, or its images differ in size, colour, type or eye, or one of them is a volume,
        or they are DICOM files of several series.
    """
    folder = Path(folder)
    files = images_in(folder)
    exports = [file for file in files if suffix_of(file) == ".xml"]
    if len(exports) > 1:
        raise InputError(f"{folder}: holds {len(exports)} HEYEX exports; give one of them, such as {exports[0].name}.")
    if exports:
        return read_file(exports[0])
    distance = None
    if dicom := [file for file in files if identify(file).name == "DICOM"]:
        if len(dicom) < len(files):
            other = next(file for file in files if file not in dicom)
            raise InputError(f"{folder}: mixes DICOM files and pictures ({dicom[0].name}, {other.name}). Move the "
                             "others away, or give the files one by one.")
        series = sort_series(dicom)
        files, distance = list(series.files), series.distance
    first = read_file(files[0])
    check_claim(str(folder), (len(files), *first.data.shape), first.data.itemsize,
                sum(file.stat().st_size for file in files), compressed=True)  # fmt: skip
    volume = np.empty((len(files), *first.data.shape), first.data.dtype)
    spacings, sides, lines = set(), {first.laterality: files[0]}, []
    for index, file in enumerate(files):
        image = first if index == 0 else read_file(file)
        if image.is_volume:
            raise InputError(f"{file}: is a volume itself; give it alone, not in a folder of B-scans.")
        if (image.data.shape, image.data.dtype) != (first.data.shape, first.data.dtype):
            raise InputError(
                f"{folder}: mixes images: {files[0].name} is {_kind(first)}, {file.name} is {_kind(image)}. "
                "The B-scans of one volume have one size and type; move the others away, or give the files one by one."
            )
        sides.setdefault(image.laterality, file)
        if {"R", "L"} <= sides.keys():
            raise InputError(f"{folder}: mixes eyes: {sides['R'].name} is a right one, {sides['L'].name} a left one. "
                             "Move the others away, or give the files one by one.")
        volume[index] = image.data
        spacings.add(image.plane_spacing)
        lines.append(image.scan_lines)
    plane_spacing = spacings.pop() if len(spacings) == 1 else None
    placed = [line for line in lines if line is not None]
    alike = len(placed) == len(files) and len({line.shape for line in placed}) == 1
    scan_lines = np.concatenate(placed) if alike else None
    if distance is None and plane_spacing:
        distance = distance_of_lines(scan_lines, volume.shape[2], plane_spacing[1])
    laterality = first.laterality if len(sides) == 1 else None
    spacing = (distance, *plane_spacing) if distance is not None and plane_spacing else None
    return RetinalImage(
        volume, rgb=first.rgb, modality=first.modality, laterality=laterality, device=first.device,
        source=str(folder), spacing=spacing, spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE,
        plane_spacing=plane_spacing, scan_lines=scan_lines,
    )  # fmt: skip


def _kind(image: RetinalImage) -> str:
    height, width = image.plane_shape
    return f"{width} x {height} {'RGB' if image.rgb else 'grey'} {image.data.dtype}"
