"""Opening a result that was saved: a result folder, a masks file, or a session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.ome import physical_sizes
from napari_claps.results.coco import read_detections
from napari_claps.results.mask_reader import read_labels
from napari_claps.results.record import read_record, usable_facts
from napari_claps.results.saved_result import MASKS, SavedResult, distinct_name, section
from napari_claps.session import BoxLayer, MaskLayer, is_session, read_session


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
        if not (path / MASKS).is_file():
            raise InputError(f"{path}: holds no {MASKS}. Give a folder NAME that claps segment wrote as OUT/NAME.")
        return _from_files(path / MASKS)
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder.")
    return _from_session(path) if is_session(path) else _from_files(path)


def _from_files(path: Path) -> SavedResult:
    labels = read_labels(path)
    beside = path.parent if path.name == MASKS else None
    record = path.with_name("provenance.json")
    provenance = read_record(record) if beside and record.is_file() else {}
    shape, spacing = labels.shape, labels.spacing
    said, sizes = section(provenance, "spacing"), _sizes(path)
    if said.get("axes") == "zyx" and len(shape) == 2:  # a volume of one slice
        shape = (1, *shape)
    segmented = section(provenance, "input").get("shape") or shape
    # Masks that were reduced or cropped since have pixels of another size: then only their own file can know it.
    if said.get("mm") and len(said["mm"]) == len(shape) and tuple(segmented[: len(shape)]) == shape:
        spacing = tuple(float(size) for size in said["mm"])
    elif spacing is not None and len(spacing) != len(shape):
        spacing = None

    boxes, table = (beside / "boxes.json", beside / "measurements.csv") if beside else (None, None)
    return SavedResult(
        path, labels.names, shape, spacing, labels.planes, provenance=provenance,
        boxes=read_detections(boxes).boxes if boxes and boxes.is_file() else (),
        table=table if table and table.is_file() else None,
        plane_spacing=(sizes["Y"], sizes["X"]) if {"Y", "X"} <= sizes.keys() else None,
        slices=_slices(provenance),
    )  # fmt: skip


def _slices(provenance: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Slices that were looked at, if the provenance says so."""
    return None if (said := provenance.get("slices")) is None else tuple(said)


def _sizes(path: Path) -> dict[str, float]:
    """Millimetres per axis, as far as the OME-TIFF says them and they can be true."""
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as file:
        return {axis: size for axis, size in physical_sizes(file.ome_metadata).items() if size > 0}


def _from_session(path: Path) -> SavedResult:
    session = read_session(path)
    facts = usable_facts(session.provenance, where=str(path))
    masks = [layer for layer in session.layers if isinstance(layer, MaskLayer)]
    if not masks:
        raise InputError(f"{path}: this session holds no masks.")
    if len({layer.data.shape for layer in masks}) > 1:
        sizes = ", ".join(f"{layer.name} {layer.data.shape}" for layer in masks)
        raise InputError(f"{path}: its masks differ in size ({sizes}). Save a session of one image alone.")
    by_name: dict[str, np.ndarray] = {}
    for layer in masks:
        by_name[distinct_name(layer.label, layer.name, by_name)] = layer.data
    place, shape = masks[0].placement, masks[0].data.shape

    def read_planes(name: str) -> Iterator[np.ndarray]:
        return iter(by_name[name].reshape(-1, *shape[-2:]))

    boxes = tuple(box for layer in session.layers if isinstance(layer, BoxLayer) for box in layer.boxes)
    return SavedResult(path, tuple(by_name), shape, place.spacing, read_planes, boxes, facts,
                       slices=_slices(facts))
