"""What a session is made of: layers as plain data, and where they lie in the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_claps.errors import InputError
from napari_claps.io.units import mm_per
from napari_claps.types import Box, RetinalImage

Rgba = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placement:
    """Where a layer lies in the world; what is None is the default of the viewer.

    Arrays become nested tuples of float, units become text.

    Parameters
    ----------
    scale, translate : sequence of float
        One per axis; no scale is 0.
    rotate : (n, n) matrix
    shear : sequence of float, or matrix
    affine : (n + 1, n + 1) matrix
    units, axis_labels : sequence of str
        One per axis.

    Raises
    ------
    InputError
        If a number is not finite, a scale is 0, or the lengths differ.
    """

    scale: tuple[float, ...] | None = None
    translate: tuple[float, ...] | None = None
    rotate: tuple[tuple[float, ...], ...] | None = None
    shear: tuple[Any, ...] | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    units: tuple[str, ...] | None = None
    axis_labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        lengths = set()
        for name, axes in (("scale", 1), ("translate", 1), ("rotate", 2), ("shear", None), ("affine", 2)):
            if (value := getattr(self, name)) is None:
                continue
            try:
                array = np.asarray(value, dtype=float)
            except (TypeError, ValueError) as error:
                raise InputError(f"The {name} {value!r} of a layer has something that is no number.") from error
            square = array.ndim == 1 or (array.ndim == 2 and array.shape[0] == array.shape[1])
            if not np.isfinite(array).all() or not square or array.ndim != (axes or array.ndim):
                raise InputError(f"The {name} {value!r} of a layer is not usable.")
            if name == "scale" and not array.all():
                raise InputError(f"The scale {value!r} of a layer has a zero; every pixel has a size.")
            if name != "shear":  # a shear is a vector of n (n - 1) / 2 numbers or a matrix
                lengths.add(len(array) - (name == "affine"))
            object.__setattr__(self, name, _nested(array))
        for name in ("units", "axis_labels"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(str(text) for text in value))
                lengths.add(len(value))
        if len(lengths) > 1:
            raise InputError(f"The scale, axes and units of a layer differ in length ({sorted(lengths)}).")

    @property
    def ndim(self) -> int | None:
        """Number of axes, or None when nothing is said."""
        for name in ("scale", "translate", "rotate", "units", "axis_labels"):
            if (value := getattr(self, name)) is not None:
                return len(value)
        return None if self.affine is None else len(self.affine) - 1

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Millimetres per pixel along each axis, as scale, shear, rotation and affine together make it.

        None where the units are not lengths: a scale in pixels says how an image is shown, not how large an eye is.
        """
        factors = [mm_per(unit) for unit in self.units or ()]
        if not factors or None in factors or (self.scale is None and self.affine is None):
            return None
        n = len(factors)
        to_world = np.diag(np.ones(n) if self.scale is None else np.asarray(self.scale))
        if self.shear is not None:
            to_world = _shear_matrix(np.asarray(self.shear, float), n) @ to_world
        if self.rotate is not None:
            to_world = np.asarray(self.rotate) @ to_world
        if self.affine is not None:
            to_world = np.asarray(self.affine)[:n, :n] @ to_world
        steps = np.linalg.norm(np.array(factors)[:, None] * to_world, axis=0)
        return tuple(float(step) for step in steps)


@dataclass(frozen=True)
class ImageReference:
    """An image that stays where it is.

    Parameters
    ----------
    path : str
        Absolute. In the file it is kept relative to the session, so that both can move together.
    sha256 : str
        Of the file, or of all files in the folder.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> ImageReference:
        """Refer to a file or folder as it is now.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        from napari_claps.io.fingerprint import sha256_of

        return cls(str(Path(path).absolute()), sha256_of(Path(path)))

    def locate(self) -> Path:
        """Return the path of the image, when it is still the same.

        Raises
        ------
        InputError
            If it is not there, or has changed.
        """
        from napari_claps.io.fingerprint import sha256_of

        path = Path(self.path)
        if not path.is_file() and not path.is_dir():
            raise InputError(
                f"{path}: the image of this session is not there any more. Put it back, or beside the session as it "
                "was when the session was saved; masks and boxes open without it."
            )
        if (found := sha256_of(path)) != self.sha256:
            raise InputError(
                f"{path}: is not the image that this session was made from (its SHA-256 begins with {found[:12]}, "
                f"not {self.sha256[:12]}). Restore the original; masks and boxes open without it."
            )
        return path


@dataclass(frozen=True, eq=False)
class ImageLayer:
    """An image, by reference or as a copy of its pixels (of the path, a copy keeps the name of the file alone).

    `style` holds how the viewer shows it (contrast, opacity, ...) and `metadata`
    what belongs to the layer; both in plain JSON types, lists instead of tuples.
    """

    name: str
    image: ImageReference | RetinalImage
    placement: Placement = Placement()
    style: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MaskLayer:
    """Instance numbers of one target.

    Parameters
    ----------
    name, label : str
        Name of the layer; target id or free text.
    data : ndarray
        (y, x) or (z, y, x) of any integer type, 0 = background.
    colours : mapping of int or None to RGBA in 0..1, or None
        Colour per instance, that of all others under the key None. None: the viewer's own for this label.
    features : DataFrame
        Table of the layer, numbered from 0; columns of numbers, texts, truth values and categories.
    placement, style, metadata
        As in `ImageLayer`.
    """

    name: str
    label: str
    data: np.ndarray
    colours: Mapping[int | None, Rgba] | None = None
    features: pd.DataFrame = field(default_factory=pd.DataFrame)
    placement: Placement = Placement()
    style: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BoxLayer:
    """Boxes with label, score, source, slice and instance.

    `features` is the table of the layer as shown, one row per box: it may repeat
    what the boxes say and add columns. `colours` is one RGBA per box, or None.
    `shape` is the (z, y, x) or (y, x) size of the image that the boxes lie on.
    """

    name: str
    boxes: tuple[Box, ...]
    shape: tuple[int, ...]
    colours: tuple[Rgba, ...] | None = None
    features: pd.DataFrame = field(default_factory=pd.DataFrame)
    placement: Placement = Placement()
    style: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ShapeLayer:
    """Points, lines and outlines that are no boxes.

    Parameters
    ----------
    name : str
    vertices : ndarray
        (n, 2) or (n, 3) float positions in pixels, shape after shape.
    lengths : ndarray or None
        (m,) int64 number of vertices of each shape. None: every vertex is a point of its own.
    features : DataFrame
        Table of the layer, one row per shape or point.
    placement, style, metadata
        As in `ImageLayer`.
    """

    name: str
    vertices: np.ndarray
    lengths: np.ndarray | None = None
    features: pd.DataFrame = field(default_factory=pd.DataFrame)
    placement: Placement = Placement()
    style: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


Layer = ImageLayer | MaskLayer | BoxLayer | ShapeLayer


def _shear_matrix(shear: np.ndarray, n: int) -> np.ndarray:
    """A shear as napari has it, the n (n - 1) / 2 numbers above the diagonal or the whole matrix, as a matrix."""
    if shear.ndim == 2:
        return shear
    matrix = np.eye(n)
    matrix[np.triu_indices(n, 1)] = shear
    return matrix


def _nested(array: np.ndarray) -> tuple[Any, ...]:
    return tuple(_nested(row) if row.ndim else float(row) for row in array)
