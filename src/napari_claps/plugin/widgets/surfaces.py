"""Surfaces of a volume: layer lines of its file, edges of masks, and lines drawn over the B-scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from napari.layers import Image, Labels, Layer, Shapes

from napari_claps.errors import InputError
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.localizer import LINE_IN_VIEW
from napari_claps.plugin.origin import origin_of

TOP, BOTTOM = "top", "bottom"
_LINES = ("path", "line", "polyline")
_NAMES = ("line", "label", "name")
"""Columns of a features table that may name the lines, the best first."""

ReadDepth = Callable[[], np.ndarray]
"""Finds the depth of a surface as (z, x) in pixels, NaN where there is none; may be called in any thread."""


@dataclass(frozen=True)
class SurfaceChoice:
    """The line of this name of an Image layer's file or of a Shapes layer, or an edge of a Labels layer."""

    layer: Image | Labels | Shapes
    line: str

    @property
    def name(self) -> str:
        """What it is called."""
        match self.layer:
            case Labels():
                return f"{self.line} of {self.layer.name}"
            case Image():
                return f"{self.line} (device)"
        return self.line

    def reader(self, volume: Image) -> ReadDepth:
        """Take what is needed to find the depth in pixels of `volume`."""
        if isinstance(self.layer, Image):
            origin = origin_of(self.layer)
            if origin is None or self.line not in origin.image.layers:
                raise InputError(f"{self.layer.name!r} has no line {self.line!r} of its file any more.")
            return partial(np.asarray, origin.image.layers[self.line], float)
        if isinstance(self.layer, Labels):
            return partial(top_of if self.line == TOP else bottom_of, self.layer.data)
        start, matrix = _to_pixels(self.layer, volume)
        paths = [start + vertices @ matrix for name, vertices in _lines(self.layer) if name == self.line]
        return partial(line_depth, paths, _shape_of(volume))


def surfaces_of(volume: Image, layers: Iterable[Layer]) -> list[SurfaceChoice]:
    """List the surfaces of a volume (z, y, x).

    They are the layer lines that its device drew, the upper and lower edge of
    every Labels layer of its size, and the lines of every Shapes layer; a line
    is named by a column of the layer's features, or else as the layer.
    """
    shape, origin = _shape_of(volume), origin_of(volume)
    found = [SurfaceChoice(volume, name) for name in (origin.image.layers if origin is not None else ())]
    for layer in layers:
        if isinstance(layer, Labels) and not layer.multiscale and tuple(layer.data.shape) == shape:
            found += [SurfaceChoice(layer, TOP), SurfaceChoice(layer, BOTTOM)]
        elif isinstance(layer, Shapes) and layer.ndim == 3 and _content(layer) != LINE_IN_VIEW:
            found += [SurfaceChoice(layer, name) for name in dict.fromkeys(name for name, _ in _lines(layer))]
    return found


def top_of(labels: np.ndarray) -> np.ndarray:
    """First row of every A-scan of (z, y, x) labels as (z, x), NaN where there is none."""
    depth = np.full((labels.shape[0], labels.shape[2]), np.nan)
    for k in range(len(depth)):
        inside = np.asarray(labels[k]) > 0
        depth[k] = np.where(inside.any(0), inside.argmax(0), np.nan)
    return depth


def bottom_of(labels: np.ndarray) -> np.ndarray:
    """Row after the last of every A-scan of (z, y, x) labels as (z, x), NaN where there is none."""
    return labels.shape[1] - top_of(labels[:, ::-1])


def line_depth(paths: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Depth (z, x) of lines with vertices (z, y, x) in pixels; each lies in one B-scan, straight between vertices."""
    depth = np.full((shape[0], shape[2]), np.nan)
    x = np.arange(shape[2])
    for path in paths:
        k = round(float(path[:, 0].mean()))
        path = path[np.argsort(path[:, 2], kind="stable")]
        if 0 <= k < shape[0]:
            along = np.interp(x, path[:, 2], path[:, 1], left=np.nan, right=np.nan)
            depth[k] = np.where(np.isnan(along), depth[k], along)
    return depth


def _shape_of(volume: Image) -> tuple[int, ...]:
    return tuple((volume.data[0] if volume.multiscale else volume.data).shape)


def _content(layer: Layer) -> str | None:
    return (layer.metadata.get(KEY) or {}).get("content")


def _lines(layer: Shapes) -> list[tuple[str, np.ndarray]]:
    """Name and vertices of the open lines of a layer."""
    column = next((c for c in _NAMES if c in layer.features), None)
    names = layer.features[column] if column else [layer.name] * layer.nshapes
    return [(str(name), np.asarray(vertices)) for kind, name, vertices in
            zip(layer.shape_type, names, layer.data, strict=True) if kind in _LINES]


def _to_pixels(layer: Layer, volume: Image) -> tuple[np.ndarray, np.ndarray]:
    """Origin and matrix that take rows of points of one layer to pixels of another."""
    def move(point: np.ndarray) -> np.ndarray:
        return np.asarray(volume.world_to_data(layer.data_to_world(point)))

    origin = move(np.zeros(layer.ndim))
    return origin, np.array([move(unit) - origin for unit in np.eye(layer.ndim)])
