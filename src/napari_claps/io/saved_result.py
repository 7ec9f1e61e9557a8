"""A result that was saved, as the exports take it: a result folder, a masks file, or a session."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError, OutputError
from napari_claps.io.coco import read_detections
from napari_claps.io.session import BoxLayer, MaskLayer, is_session, read_session
from napari_claps.io.units import mm_per
from napari_claps.types import Box, RetinalImage, SpacingSource

_FILE = "masks.ome.tif"


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
        Name -> iterator of (y, x) planes of instance numbers, one for each slice.
    boxes : tuple of Box
    provenance : mapping
        Content of ``provenance.json``; empty when there is none.
    table : Path or None
        ``measurements.csv``.
    """

    source: Path
    names: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    read_planes: Callable[[str], Iterator[np.ndarray]]
    boxes: tuple[Box, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    table: Path | None = None

    @property
    def n_slices(self) -> int:
        """Number of planes of each mask."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def name(self) -> str:
        """Name of the result: that of its folder, or of its file."""
        return self.source.resolve().parent.name if self.source.name == _FILE else self.source.name

    @property
    def laterality(self) -> str | None:
        """``"R"``, ``"L"`` or None."""
        side = (self.provenance.get("input") or {}).get("laterality")
        return side if side in ("R", "L") else None

    @property
    def spacing_source(self) -> SpacingSource:
        """Where the spacing comes from: what the provenance says, as long as it is the same spacing."""
        if self.spacing is None:
            return SpacingSource.NONE
        said = self.provenance.get("spacing") or {}
        same = len(said.get("mm") or ()) == len(self.spacing) and np.allclose(said["mm"], self.spacing)
        source = said.get("source") if same else None
        return SpacingSource(source) if source in set(SpacingSource) else SpacingSource.FILE

    @property
    def linked(self) -> bool:
        """Whether a number is the same object in all slices, as the provenance says."""
        return self.provenance.get("linked") is True

    def mask(self, name: str) -> np.ndarray:
        """Read one mask whole, as uint16 of `shape`."""
        return np.stack([_uint16(plane, self.source) for plane in self.read_planes(name)]).reshape(self.shape)

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


def open_result(path: str | Path) -> SavedResult:
    """Look into a result; the masks are read later, plane by plane.

    Parameters
    ----------
    path : path
        Folder of ``claps segment``, a masks file (OME-TIFF, one named channel per target), or a ``.claps.zip``.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / _FILE).is_file():
            raise InputError(f"{path}: holds no {_FILE}. Give a folder NAME that claps segment wrote as OUT/NAME.")
        return _from_files(path / _FILE)
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder.")
    return _from_session(path) if is_session(path) else _from_files(path)


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


def _from_files(path: Path) -> SavedResult:
    from napari_claps.evaluate.files import read_labels

    labels = read_labels(path)
    beside = path.parent if path.name == _FILE else None
    provenance = _provenance(beside / "provenance.json") if beside else {}
    shape, spacing = labels.shape, labels.spacing
    said = provenance.get("spacing") or {}
    if said.get("axes") == "zyx" and len(shape) == 2:  # a volume of one slice
        shape = (1, *shape)
    if said.get("mm") and len(said["mm"]) == len(shape):
        spacing = tuple(float(size) for size in said["mm"])
    elif spacing is not None and len(spacing) != len(shape):
        spacing = None

    def read_planes(name: str) -> Iterator[np.ndarray]:
        import tifffile

        try:
            with tifffile.TiffFile(labels.source) as file:
                pages = file.series[0].pages
                for index in labels.pages[name]:
                    yield pages[index].asarray().reshape(shape[-2:])
        except Exception as error:
            raise InputError(f"{labels.source}: is damaged or truncated ({error}).") from error

    boxes, table = (beside / "boxes.json", beside / "measurements.csv") if beside else (None, None)
    return SavedResult(
        path, labels.names, shape, spacing, read_planes, provenance=provenance,
        boxes=read_detections(boxes).boxes if boxes and boxes.is_file() else (),
        table=table if table and table.is_file() else None,
    )  # fmt: skip


def _from_session(path: Path) -> SavedResult:
    session = read_session(path)
    masks = [layer for layer in session.layers if isinstance(layer, MaskLayer)]
    if not masks:
        raise InputError(f"{path}: this session holds no masks.")
    if len({layer.data.shape for layer in masks}) > 1:
        sizes = ", ".join(f"{layer.name} {layer.data.shape}" for layer in masks)
        raise InputError(f"{path}: its masks differ in size ({sizes}). Save a session of one image alone.")
    by_name: dict[str, np.ndarray] = {}
    for layer in masks:  # two runs of one target have the same label
        name = layer.label if layer.label not in by_name else layer.name
        while name in by_name:
            name += "'"
        by_name[name] = layer.data
    place, shape = masks[0].placement, masks[0].data.shape
    factors = [mm_per(unit) for unit in place.units or ()]
    spacing = None
    if place.scale and factors and None not in factors:
        spacing = tuple(abs(step) * factor for step, factor in zip(place.scale, factors, strict=True))

    def read_planes(name: str) -> Iterator[np.ndarray]:
        return iter(by_name[name].reshape(-1, *shape[-2:]))

    boxes = tuple(box for layer in session.layers if isinstance(layer, BoxLayer) for box in layer.boxes)
    return SavedResult(path, tuple(by_name), shape, spacing, read_planes, boxes, session.provenance)


def _provenance(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no provenance of napari-claps.")
    return found


def _uint16(plane: np.ndarray, source: Path) -> np.ndarray:
    if plane.dtype != np.uint16 and plane.size and not 0 <= plane.min() <= plane.max() <= 65535:
        raise InputError(f"{source}: has numbers from {plane.min()} to {plane.max()}; exports hold 0 to 65535.")
    return plane.astype(np.uint16, copy=False)
