"""Masks on disk, predicted or true, read one target at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import tifffile
from PIL import Image

from napari_claps.errors import InputError
from napari_claps.io.ome import channel_names, physical_sizes
from napari_claps.words.vocabulary import find_target

FIELD_OF_VIEW = "fov"
"""Channel or folder that holds the field of view; it is no target."""


class Labels(Protocol):
    """Masks of one image or volume; `names` are target ids, or free texts."""

    @property
    def source(self) -> Path: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def spacing(self) -> tuple[float, ...] | None: ...
    def mask(self, name: str) -> np.ndarray:
        """(y, x) or (z, y, x) label image, 0 = background."""
        ...


@dataclass(frozen=True)
class LabelTiff:
    """An OME-TIFF with one named channel per target, as ``claps segment`` writes it."""

    source: Path
    names: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    pages: Mapping[str, tuple[int, ...]]

    def mask(self, name: str) -> np.ndarray:
        """Read one channel, (y, x) or (z, y, x)."""
        try:
            with tifffile.TiffFile(self.source) as file:
                planes = [file.series[0].pages[i].asarray() for i in self.pages[name]]
        except Exception as error:  # damaged bytes make the parsers raise anything
            raise InputError(f"{self.source}: is damaged or truncated ({error}).") from error
        return np.stack(planes).reshape(self.shape)


@dataclass(frozen=True)
class LabelPictures:
    """Pictures ``<target>/<stem>.png``, one per target, 0 = background."""

    source: Path
    pictures: Mapping[str, Path]
    shape: tuple[int, ...]
    spacing: None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.pictures)

    def mask(self, name: str) -> np.ndarray:
        """Read one picture, (y, x)."""
        path = self.pictures[name]
        try:
            with Image.open(path) as picture:
                mask = np.asarray(picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("L"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path}: is damaged or no picture ({error}).") from error
        if mask.shape != self.shape:
            raise InputError(f"{path}: is {_size(mask.shape)} pixels, other masks of this image {_size(self.shape)}.")
        return mask


def read_labels(path: Path) -> LabelTiff:
    """Look into an OME-TIFF of masks, axes C(Z)YX in any order, channels named.

    Raises
    ------
    InputError
        If it cannot be read, has no channel names, or has colour or time.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            if not file.is_ome or not file.series:
                raise InputError(f"{path}: is no OME-TIFF; the channel names that say what each mask is are missing.")
            axes, shape = file.series[0].get_axes(squeeze=False), file.series[0].get_shape(squeeze=False)
            names = [canonical_name(name) for name in channel_names(file.ome_metadata)]
            spacing = {axis: size for axis, size in physical_sizes(file.ome_metadata).items() if size > 0}
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the parsers of TIFF and XML raise anything
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path}: cannot be read as OME-TIFF ({reason}). It is damaged or truncated.") from error
    if "I" in axes and not names:  # what tifffile calls pages whose description it cannot use
        raise InputError(f"{path}: its OME description, which says what each mask is, cannot be read. It is damaged.")
    if {axis for axis, n in zip(axes, shape, strict=True) if n > 1} - set("CZYX"):
        raise InputError(f"{path}: has axes {axes} {shape}; masks have only channel, z, y and x (no colour, no time).")
    size = {axis: n for axis, n in zip(axes, shape, strict=True) if axis in "CZYX"}
    *outer, height, width = size
    if (height, width) != ("Y", "X"):
        raise InputError(f"{path}: has axes {axes}; a page must be one (y, x) plane.")
    if len(names) != size.get("C", 1) or not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"{path}: {size.get('C', 1)} channels have the names {names}; "
            "every channel needs a name of its own, the id of its target."
        )
    pages = np.arange(math.prod(size[axis] for axis in outer)).reshape([size[axis] for axis in outer])
    if "C" in outer:
        pages = np.moveaxis(pages, outer.index("C"), 0)
    pages = pages.reshape(len(names), -1)
    n_slices = pages.shape[1]
    plane = (size["Y"], size["X"])
    known = [spacing.get(axis) for axis in ("YX" if n_slices == 1 else "ZYX")]
    return LabelTiff(
        source=path,
        names=tuple(names),
        shape=plane if n_slices == 1 else (n_slices, *plane),
        spacing=None if None in known else tuple(known),
        pages={name: tuple(int(i) for i in row) for name, row in zip(names, pages, strict=True)},
    )


def find_truth(root: Path, name: str) -> Labels | None:
    """Return the true masks of image `name` below `root`, or None where there are none.

    Looked for, in this order: ``name/masks.ome.tif`` (a folder of ``claps segment``, perhaps corrected),
    ``name_truth.ome.tif`` (of ``claps sample``), ``name.ome.tif`` (or ``.tif``), ``masks/<target>/name.png``,
    ``<target>/name.png``. A target whose picture is missing is unknown in this image; an empty picture says
    that it is absent.
    """
    if root.is_file():
        return read_labels(root)
    endings = ("/masks.ome.tif", "_truth.ome.tif", ".ome.tif", ".ome.tiff", ".tif", ".tiff")
    for file in (root / f"{name}{ending}" for ending in endings):
        if file.is_file():
            return read_labels(file)
    folder = root / "masks" if (root / "masks").is_dir() else root
    pictures = {canonical_name(p.parent.name): p for p in sorted(folder.glob(f"*/{_literal(name)}.png"))}
    if not pictures:
        return None
    try:
        with Image.open(next(iter(pictures.values()))) as picture:
            shape = (picture.height, picture.width)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{next(iter(pictures.values()))}: is damaged or no picture ({error}).") from error
    return LabelPictures(folder, pictures, shape)


def canonical_name(name: str) -> str:
    """Return the target id for an id, name or synonym ("IRF"); other names stay as they are."""
    target = find_target(name)
    return target.id if target else name.strip()


def _literal(name: str) -> str:
    """Escape what a glob would read as a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape))
