"""Masks on disk, predicted or true, read one target at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from napari_claps.errors import InputError
from napari_claps.results.mask_reader import canonical_name, read_labels

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


def _literal(name: str) -> str:
    """Escape what a glob would read as a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape))
