"""A result that was saved, as the exports take it: a result folder, a masks file, or a session."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError, OutputError
from napari_claps.types import Box, RetinalImage, SpacingSource

MASKS = "masks.ome.tif"
"""Name of the masks in a result folder."""


@dataclass(frozen=True, eq=False)
class SavedResult:
    """Masks, boxes and where they come from.

    Parameters
    ----------
    source : Path
        For messages.
    names : tuple of str
        Target ids or free texts, one per mask.
    shape : tuple of int
        (y, x) or (z, y, x).
    spacing : tuple of float or None
        Millimetres per axis.
    read_planes : callable
        Name -> iterator of (y, x) planes as they are stored, one for each slice; `planes` checks them.
    boxes : tuple of Box
    provenance : mapping
        Content of ``provenance.json``; empty when there is none.
    table : Path or None
        ``measurements.csv``.
    plane_spacing : tuple of float or None
        Millimetres per pixel (y, x) within a slice, of a volume whose slice distance is unknown.
    slices : tuple of int or None
        Slices that were looked at; None when nothing says so.
    """

    source: Path
    names: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    read_planes: Callable[[str], Iterator[np.ndarray]]
    boxes: tuple[Box, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    table: Path | None = None
    plane_spacing: tuple[float, float] | None = None
    slices: tuple[int, ...] | None = None

    @property
    def n_slices(self) -> int:
        """Number of planes of each mask."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def name(self) -> str:
        """Name of the result: that of its folder, or of its file."""
        return self.source.resolve().parent.name if self.source.name == MASKS else self.source.name

    @property
    def image_name(self) -> str:
        """Name of the image file as the provenance says it, else that of the result."""
        return str(section(self.provenance, "input").get("name") or self.name)

    @property
    def laterality(self) -> str | None:
        """``"R"``, ``"L"`` or None."""
        side = section(self.provenance, "input").get("laterality")
        return side if side in ("R", "L") else None

    @property
    def spacing_source(self) -> SpacingSource:
        """Where the spacing comes from: what the provenance says, as long as it is the same spacing."""
        if self.spacing is None:
            return SpacingSource.NONE
        said = section(self.provenance, "spacing")
        same = len(said.get("mm") or ()) == len(self.spacing) and np.allclose(said["mm"], self.spacing)
        source = said.get("source") if same else None
        return SpacingSource(source) if source in set(SpacingSource) else SpacingSource.FILE

    @property
    def linked(self) -> bool:
        """Whether a number is the same object in all slices, as the provenance says."""
        return self.provenance.get("linked") is True

    def planes(self, name: str) -> Iterator[np.ndarray]:
        """Yield the (y, x) uint16 planes of one mask, one for each slice.

        Raises
        ------
        InputError
            If the file is damaged, or has other numbers than a mask.
        """
        for plane in self.read_planes(name):
            yield _uint16(plane, self.source)

    def mask(self, name: str) -> np.ndarray:
        """Read one mask whole, as uint16 of `shape`."""
        return np.stack(list(self.planes(name))).reshape(self.shape)

    def read_image(self, source: Path) -> RetinalImage:
        """Read the image that was segmented.

        Raises
        ------
        InputError
            If it cannot be read, or has another size than the masks.
        """
        from napari_claps.io import read

        image = read(source)
        self.check_size(image.data.shape[:-1] if image.rgb else image.data.shape, source)
        return image

    def check_size(self, shape: tuple[int, ...], source: Path) -> None:
        """Refuse an image whose (y, x) or (z, y, x) size is not that of the masks.

        Raises
        ------
        InputError
            If it differs.
        """
        if tuple(shape) != self.shape:
            sizes = [" x ".join(str(n) for n in reversed(size)) for size in (shape, self.shape)]
            raise InputError(f"{source}: has {sizes[0]} pixels (x, y, z), the masks have {sizes[1]}. "
                             "Give the image that was segmented.")


def file_names(names: tuple[str, ...]) -> dict[str, str]:
    """Return for each name one that is fit for a file: ASCII letters, digits, dots and dashes, no two alike."""
    found: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "mask"
        taken = {other.lower() for other in found.values()}  # some file systems see no capitals
        number, file_name = 2, stem
        while file_name.lower() in taken:
            file_name, number = f"{stem}_{number}", number + 1
        found[name] = file_name
    return found


def distinct_name(label: str, layer: str, taken: Container[str]) -> str:
    """Name of a mask in a file: its label, or for a second run of the same target the name of its layer.

    Examples
    --------
    >>> distinct_name("drusen", "drusen [1]", {"drusen"})
    'drusen [1]'
    """
    name = layer if label in taken else label
    while name in taken:
        name += "'"
    return name


def check_free(paths: Iterable[Path]) -> None:
    """Refuse to write over what is there.

    Raises
    ------
    OutputError
        If one of `paths` exists.
    """
    for path in paths:
        if path.exists():
            raise OutputError(f"{path}: is there already. Choose another name, or give --overwrite.")


def section(provenance: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table inside the provenance; empty if it is missing or, in a file that was edited, something else."""
    found = provenance.get(name)
    return found if isinstance(found, Mapping) else {}


def _uint16(plane: np.ndarray, source: Path) -> np.ndarray:
    if plane.dtype == np.uint16:
        return plane
    whole = plane.dtype.kind in "bui" or (plane.dtype.kind == "f" and np.array_equal(plane, np.round(plane)))
    if not whole or (plane.size and not 0 <= plane.min() <= plane.max() <= 65535):
        raise InputError(f"{source}: has {plane.dtype} numbers from {plane.min()} to {plane.max()}; masks hold whole "
                         "numbers from 0 to 65535.")
    return plane.astype(np.uint16)
