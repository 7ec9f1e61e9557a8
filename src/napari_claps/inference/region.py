"""A region of every slice: looked at alone, and pasted back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from napari_claps.errors import InputError
from napari_claps.types import RetinalImage, SliceResult


def check_region(region: tuple[int, int, int, int], image: RetinalImage) -> None:
    """Refuse a region that is not inside the image, or too small.

    Raises
    ------
    InputError
    """
    y0, x0, y1, x1 = region
    height, width = image.plane_shape
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width) or min(y1 - y0, x1 - x0) < 8:
        raise InputError(f"{image.source}: the region (y0, x0, y1, x1) = {tuple(region)} must lie inside the image of "
                         f"{height} x {width} pixels and have at least 8 x 8 pixels.")


def cropped(image: RetinalImage, region: tuple[int, int, int, int]) -> RetinalImage:
    """A view of the part of an image that lies in the region."""
    y0, x0, y1, x1 = region
    rows, columns = slice(y0, y1), slice(x0, x1)
    data = image.data[:, rows, columns] if image.is_volume else image.data[rows, columns]
    return dataclasses.replace(image, data=data, localizer=None, scan_lines=None, layers={})


def pasted(result: SliceResult, region: tuple[int, int, int, int], shape: tuple[int, int]) -> SliceResult:
    """The result of a region as that of the whole slice; the uncertainty outside of it is NaN, not known."""
    y0, x0, y1, x1 = region

    def whole(planes: Mapping[str, np.ndarray], outside: float = 0) -> dict[str, np.ndarray]:
        full = {label: np.full(shape, outside, plane.dtype) for label, plane in planes.items()}
        for label, plane in planes.items():
            full[label][y0:y1, x0:x1] = plane
        return full

    boxes = tuple(dataclasses.replace(b, y0=b.y0 + y0, y1=b.y1 + y0, x0=b.x0 + x0, x1=b.x1 + x0) for b in result.boxes)
    return dataclasses.replace(result, masks=whole(result.masks), boxes=boxes, inner=whole(result.inner),
                               outer=whole(result.outer), uncertainty=whole(result.uncertainty, np.nan))
