"""Masks read back from an OME-TIFF with one named channel per target, one target at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from napari_claps.errors import InputError
from napari_claps.io.ome import channel_names, physical_sizes
from napari_claps.words.vocabulary import find_target


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
            return np.stack(list(self.planes(name))).reshape(self.shape)
        except ValueError as error:  # planes of different sizes
            raise InputError(f"{self.source}: is damaged or truncated ({error}).") from error

    def planes(self, name: str) -> Iterator[np.ndarray]:
        """Yield the pages (y, x) of one channel, a slice each.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        try:
            with tifffile.TiffFile(self.source) as file:
                pages = file.series[0].pages
                for index in self.pages[name]:
                    if (page := pages[index]) is None:
                        raise ValueError(f"page {index} is missing")
                    yield page.asarray().reshape(self.shape[-2:])
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make the parsers raise anything
            raise InputError(f"{self.source}: is damaged or truncated ({error}).") from error


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
    axes_of_a_mask = "YX" if n_slices == 1 else "ZYX"
    return LabelTiff(
        source=path,
        names=tuple(names),
        shape=plane if n_slices == 1 else (n_slices, *plane),
        spacing=tuple(spacing[axis] for axis in axes_of_a_mask) if set(axes_of_a_mask) <= spacing.keys() else None,
        pages={name: tuple(int(i) for i in row) for name, row in zip(names, pages, strict=True)},
    )


def canonical_name(name: str) -> str:
    """Return the target id for an id, name or synonym ("IRF"); other names stay as they are."""
    target = find_target(name)
    return target.id if target else name.strip()
