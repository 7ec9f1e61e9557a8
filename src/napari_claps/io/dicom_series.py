"""DICOM series of one file per slice: which files belong together, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.dicom import read_dataset

_TAGS = ["SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
         "SpacingBetweenSlices"]  # fmt: skip
_EVEN = 0.05
"""Part of their mean by which the distances of the slices may differ."""


@dataclass(frozen=True)
class Series:
    """The files of a series in the order of its slices; `distance` in mm, or None when the files do not say."""

    files: tuple[Path, ...]
    distance: float | None


def sort_series(files: Sequence[Path]) -> Series:
    """Put the files of a DICOM series in order.

    The order is that of the positions along the normal of the slices where the files place them in patient
    coordinates, else that of the instance numbers, else the given one.

    Parameters
    ----------
    files : sequence of Path
        At least one DICOM file.

    Raises
    ------
    InputError
        If pydicom is missing, a file is damaged, there are several series, or a slice comes twice.
    """
    headers = [_header(file) for file in files]
    _check_one(files, [header.get("SeriesInstanceUID") for header in headers])
    _check_once(files, [header.get("SOPInstanceUID") for header in headers], "are the same image (SOP instance)")
    positions = _positions(headers)
    if positions is not None:
        _check_once(files, [round(float(position), 6) for position in positions], "lie at the same place")
        order = np.argsort(positions)
        steps = np.diff(positions[order])
        even = len(steps) and np.ptp(steps) <= _EVEN * steps.mean()
        return Series(tuple(files[i] for i in order), float(steps.mean()) if even else None)
    numbers = [header.get("InstanceNumber") for header in headers]
    if None not in numbers:
        _check_once(files, [int(number) for number in numbers], "have the same instance number")
        files = [file for _, file in sorted(zip(map(int, numbers), files, strict=True))]
    said = {float(value) for header in headers if (value := header.get("SpacingBetweenSlices"))}
    return Series(tuple(files), said.pop() if len(said) == 1 else None)


def _header(file: Path) -> Any:
    try:
        return read_dataset(file, stop_before_pixels=True, specific_tags=_TAGS)
    except InputError:
        raise
    except Exception as error:  # damaged bytes make pydicom raise anything; what it says may name the patient
        reason = type(error).__name__
        raise InputError(f"{file}: cannot be read as DICOM ({reason}). It is damaged or truncated.") from error


def _check_one(files: Sequence[Path], series: Sequence[Any]) -> None:
    for file, uid in zip(files, series, strict=True):
        if uid != series[0]:
            raise InputError(
                f"{file.parent}: mixes {len(set(map(str, series)))} DICOM series: {files[0].name} and {file.name} "
                "belong to different ones. Move the others away, or give the files one by one."
            )


def _check_once(files: Sequence[Path], values: Sequence[Any], what: str) -> None:
    first: dict[Any, Path] = {}
    for file, value in zip(files, values, strict=True):
        if value is not None and value in first:
            raise InputError(f"{file.parent}: {first[value].name} and {file.name} {what}. Remove one of them.")
        first[value] = file


def _positions(headers: Sequence[Any]) -> np.ndarray | None:
    """Places in mm along the common normal of the slices; None unless all files tell them."""
    places = [header.get("ImagePositionPatient") for header in headers]
    turns = [header.get("ImageOrientationPatient") for header in headers]
    if not all(place and len(place) == 3 for place in places) or not all(turn and len(turn) == 6 for turn in turns):
        return None
    axes = np.array([[float(v) for v in turn] for turn in turns])
    if not np.isfinite(axes).all() or not np.allclose(axes, axes[0], atol=1e-3):
        return None
    normal = np.cross(axes[0, :3], axes[0, 3:])
    positions = np.array([[float(v) for v in place] for place in places]) @ normal
    return positions if np.isfinite(positions).all() and np.any(normal) and np.ptp(positions) > 0 else None
