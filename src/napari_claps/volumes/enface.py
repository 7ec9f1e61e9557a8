"""En-face images of an OCT volume: projections between two surfaces, and thickness maps.

An en-face image has the axes (z, x) of the volume: one row per B-scan, one
column per A-scan. Nothing is interpolated; what is not known is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from napari_claps.errors import InputError

MICROMETRES_PER_MM = 1000.0


class Projection(StrEnum):
    """How a column of voxels becomes a pixel."""

    MEAN = "mean"
    MAX = "max"


@dataclass(frozen=True, eq=False)
class EnFace:
    """An en-face image.

    Parameters
    ----------
    data : ndarray
        (z, x) float32, NaN where nothing is known.
    spacing : tuple of float or None
        mm between B-scans and between A-scans, or None when unknown: the scale of a layer, with unit mm.
    unit : str
        Of the values: ``um``, ``px``, or ``grey`` for those of the volume.
    """

    data: np.ndarray
    spacing: tuple[float, float] | None
    unit: str


Surface = float | np.ndarray | None
"""Depth in pixels: one number, one for each A-scan as (z, x) with NaN where there is none, or None for the border."""


def project(volume: Any, spacing: tuple[float, ...] | None = None, *, how: Projection | str = Projection.MEAN,
            top: Surface = None, bottom: Surface = None, slices: Iterable[int] | None = None) -> EnFace:
    """Project a volume along its depth, between two surfaces.

    Parameters
    ----------
    volume : array-like
        (z, y, x) grey, read slice by slice, so it may be lazy.
    spacing : tuple of float or None
        mm per voxel along (z, y, x).
    how : {"mean", "max"}
    top, bottom : float, ndarray or None
        Rows y with ``top <= y < bottom`` count; by default all.
    slices : iterable of int, optional
        Only these; the others are NaN.

    Returns
    -------
    EnFace
        NaN where a surface is missing or no row lies between them.

    Raises
    ------
    InputError
        If the volume is no (z, y, x) array, a surface has another shape, or there is no such slice or projection.
    """
    if how not in tuple(Projection):
        raise InputError(f"There is no projection {how!r}. Choose mean or max.")
    depth, height, width = _shape(volume)
    top = _surface(top, "top", -np.inf, (depth, width))
    bottom = _surface(bottom, "bottom", np.inf, (depth, width))
    y = np.arange(height)[:, None]
    data = np.full((depth, width), np.nan, np.float32)
    for k in _slices(slices, depth):
        plane = np.asarray(volume[k], np.float32)
        inside = (y >= top[k]) & (y < bottom[k])  # False where a surface is NaN
        known = inside.any(0)
        if how == Projection.MEAN:
            value = np.where(inside, plane, 0).sum(0, dtype=np.float64) / np.maximum(inside.sum(0), 1)
        else:
            value = np.where(inside, plane, -np.inf).max(0)
        data[k, known] = value[known]
    return EnFace(data, _en_face_spacing(spacing), "grey")


def thickness_map(mask: Any, spacing: tuple[float, ...] | None = None, *, slices: Iterable[int] | None = None,
                  coverage: np.ndarray | None = None) -> EnFace:
    """Thickness of a target at every A-scan: the axial length of all its pixels there.

    Parameters
    ----------
    mask : array-like
        (z, y, x) labels, 0 = background; read slice by slice, so it may be lazy.
    spacing : tuple of float or None
        mm per voxel along (z, y, x).
    slices : iterable of int, optional
        Slices that were looked at, by default all; the others are NaN.
    coverage : ndarray, optional
        (z, x) bool, False where an A-scan was not looked at.

    Returns
    -------
    EnFace
        In micrometres when the spacing is known, else in pixels. 0 where the target was looked for and is not.

    Raises
    ------
    InputError
        If the mask is no (z, y, x) array, `coverage` has another shape, or there is no such slice.
    """
    depth, _, width = _shape(mask)
    if coverage is not None and np.shape(coverage) != (depth, width):
        raise InputError(f"The coverage has shape {np.shape(coverage)}; for this volume it must be (z, x) = "
                         f"{(depth, width)}.")
    per_pixel = 1.0 if spacing is None else spacing[1] * MICROMETRES_PER_MM
    data = np.full((depth, width), np.nan, np.float32)
    for k in _slices(slices, depth):
        data[k] = np.count_nonzero(np.asarray(mask[k]), axis=0) * per_pixel
    if coverage is not None:
        data[~np.asarray(coverage, bool)] = np.nan
    return EnFace(data, _en_face_spacing(spacing), "px" if spacing is None else "um")


def _shape(volume: Any) -> tuple[int, int, int]:
    shape = tuple(volume.shape)
    if len(shape) != 3:
        raise InputError(f"An en-face image needs a volume (z, y, x); this array has shape {shape}. "
                         "Take a grey OCT volume or its mask, not a single image or a colour image.")
    return shape


def _en_face_spacing(spacing: tuple[float, ...] | None) -> tuple[float, float] | None:
    return None if spacing is None else (spacing[0], spacing[2])


def _slices(slices: Iterable[int] | None, depth: int) -> list[int]:
    chosen = list(range(depth)) if slices is None else [int(k) for k in slices]
    wrong = [k for k in chosen if not 0 <= k < depth]
    if wrong:
        raise InputError(f"There is no slice {wrong[0]}: the volume has slices 0 to {depth - 1}.")
    return chosen


def _surface(surface: Surface, name: str, border: float, shape: tuple[int, int]) -> np.ndarray:
    """Return a surface as (z, x) float."""
    depth = np.asarray(border if surface is None else surface, np.float64)
    if depth.shape not in ((), shape):
        raise InputError(f"The {name} surface has shape {depth.shape}; for this volume it must be one number or "
                         f"(z, x) = {shape}.")
    return np.broadcast_to(depth, shape)
