"""A rectangle that the user drew, as a region of an image in pixels."""

from __future__ import annotations

import numpy as np
from napari.layers import Image, Shapes

from napari_claps.errors import InputError

TOLERANCE = 0.5
"""Pixels by which the corners of an upright rectangle may be off."""


def region_of(shapes: Shapes, image: Image) -> tuple[int, int, int, int]:
    """Return the rectangle of a Shapes layer as (y0, x0, y1, x1) in pixels of an image layer, end exclusive.

    It is the only shape of the layer, or the only one that is selected. Its
    place along other axes does not matter, and what reaches beyond the border
    of the image is cut off.

    Raises
    ------
    InputError
        If there is no such rectangle, if it is rotated against the image, or if it lies beside it.
    """
    if not shapes.nshapes:
        raise InputError(f"Layer {shapes.name!r} has no shape. Draw a rectangle in it, or choose the whole image.")
    chosen = [0] if shapes.nshapes == 1 else sorted(shapes.selected_data)
    if len(chosen) != 1:
        raise InputError(f"Layer {shapes.name!r} has {shapes.nshapes} shapes, of which {len(chosen) or 'none'} are "
                         "selected. Select the one rectangle that is the region.")
    (number,) = chosen
    if shapes.shape_type[number] != "rectangle":
        raise InputError(f"The region in layer {shapes.name!r} is of the type {shapes.shape_type[number]}. "
                         "Draw a rectangle.")
    corners = _pixels(np.asarray(shapes.data[number]), shapes, image)
    low, high = corners.min(axis=0), corners.max(axis=0)
    # Every corner of an upright rectangle is at the least or the greatest of each coordinate.
    off = np.minimum(np.abs(corners - low), np.abs(corners - high))
    if off.max() > TOLERANCE:
        raise InputError(f"The rectangle in layer {shapes.name!r} is rotated against {image.name!r}. "
                         "Draw one whose sides are parallel to those of the image.")
    # napari puts pixel centres on whole numbers, so pixel 3 begins at 2.5.
    y0, x0 = (max(0, round(float(v))) for v in low + 0.5)
    height, width = _plane_shape(image)
    y1, x1 = (min(n, round(float(v))) for n, v in zip((height, width), high + 0.5, strict=True))
    if y0 >= y1 or x0 >= x1:
        raise InputError(f"The rectangle in layer {shapes.name!r} lies outside {image.name!r}, which has "
                         f"{height} x {width} pixels. Move it onto the image.")
    return y0, x0, y1, x1


def _pixels(points: np.ndarray, shapes: Shapes, image: Image) -> np.ndarray:
    """Points of the layer as (n, 2) array of (y, x) in pixels of the image."""
    world = np.array([shapes.data_to_world(point) for point in points])
    # Layers of fewer axes lie over the last axes of the others, as napari shows them.
    missing = image.ndim - world.shape[1]
    if missing > 0:
        origin = np.asarray(image.data_to_world(np.zeros(image.ndim)))[:missing]
        world = np.hstack([np.tile(origin, (len(world), 1)), world])
    return np.array([image.world_to_data(point[-image.ndim:]) for point in world])[:, -2:]


def _plane_shape(image: Image) -> tuple[int, int]:
    shape = (image.data[0] if image.multiscale else image.data).shape
    height, width = shape[:-1][-2:] if image.rgb else shape[-2:]
    return int(height), int(width)
