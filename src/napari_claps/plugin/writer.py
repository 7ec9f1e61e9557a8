"""Saving masks and boxes from napari, in the formats of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import OutputError
from napari_claps.files.atomic import atomic_path
from napari_claps.plugin.layers import KEY, SPATIAL, box_of, plain, spacing_in
from napari_claps.results.saved_result import SavedResult, distinct_name
from napari_claps.types import RetinalImage, SpacingSource

_MOST = np.iinfo(np.uint16).max


def write_masks(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save Labels layers as OME-TIFF: one uint16 channel per layer, named by its target, with physical size.

    Raises
    ------
    OutputError
        If the layers differ in size or scale, have more than three axes or numbers above 65535, or the file cannot be
        written.
    """
    from napari_claps.results.mask_writer import MaskWriter

    arrays, spacing = _masks_of(path, layers)
    first = next(iter(arrays.values()))
    image = RetinalImage(first, spacing=spacing, source=Path(path).name,
                         spacing_source=SpacingSource.NONE if spacing is None else SpacingSource.USER)
    writer = MaskWriter(image, list(arrays))
    for index in range(image.n_slices):
        writer.add(index, {label: masks[index] if image.is_volume else masks for label, masks in arrays.items()})
    with atomic_path(path) as temporary:
        writer.write(temporary)
    return [path]


def write_nifti_masks(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save Labels layers as NIfTI with voxel sizes; of several layers each gets a file, named by its target.

    Raises
    ------
    InputError
        If nibabel is missing.
    OutputError
        As for `write_masks`.
    """
    from napari_claps.results.export.nifti import write_nifti

    return [str(p) for p in write_nifti(_result_of(path, layers), Path(path), overwrite=True)]


def write_zarr_masks(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Save Labels layers as OME-Zarr labels, in chunks: for large volumes. An earlier one at `path` is replaced.

    Raises
    ------
    InputError
        If zarr is missing.
    OutputError
        As for `write_masks`, or if there is a folder of something else at `path`.
    """
    from napari_claps.results.export.zarr import write_ome_zarr

    if Path(path).is_dir() and not (Path(path) / ".zgroup").is_file():
        raise OutputError(f"{path}: is a folder, but no OME-Zarr; it would be lost. Choose another name.")
    return [str(p) for p in write_ome_zarr(_result_of(path, layers), Path(path))]


def _masks_of(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> tuple[dict[str, np.ndarray],
                                                                               tuple[float, ...] | None]:
    """Masks by label, all of one size, and their spacing in mm."""
    arrays: dict[str, np.ndarray] = {}
    for data, attributes, _ in layers:
        known = attributes.get("metadata", {}).get(KEY) or {}
        name = attributes["name"]
        arrays[distinct_name(known.get("label") or name, name, arrays)] = _checked(np.asarray(data), name)
    if len({array.shape for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{label} {array.shape}" for label, array in arrays.items())
        raise OutputError(f"{path}: layers of different size cannot share a file ({sizes}). Save them one by one.")
    # Of layers of one shape, one that somebody drew may have no unit; it lies on the same pixels.
    known = {attributes["name"]: spacing for _, attributes, _ in layers if (spacing := spacing_in(attributes))}
    if not known:
        return arrays, None
    first = next(iter(known.values()))
    if not all(np.allclose(spacing, first, rtol=1e-6, atol=0) for spacing in known.values()):
        sizes = ", ".join(f"{name} {spacing}" for name, spacing in known.items())
        raise OutputError(f"{path}: layers with pixels of different size in mm cannot share a file ({sizes}). "
                          "Save them one by one.")
    return arrays, first


def _result_of(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> SavedResult:
    """The layers as the exports of the command line take a result."""
    arrays, spacing = _masks_of(path, layers)
    shape = next(iter(arrays.values())).shape
    return SavedResult(Path(path), tuple(arrays), shape, spacing,
                       lambda name: iter(arrays[name].reshape(-1, *shape[-2:])))


def write_boxes(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save a Shapes layer as COCO detections; of a shape that is no box, the box around it.

    Label, score, slice and source come from the features; without them a shape
    is a box of the user's, labelled with the name of the layer.

    Raises
    ------
    OutputError
        If the shapes have more than three axes, or the file cannot be written.
    """
    from napari_claps.results.coco import coco_detections

    name = attributes["name"]
    known = attributes.get("metadata", {}).get(KEY) or {}
    ndim = len(attributes["scale"])
    if ndim not in (2, 3):
        raise OutputError(f"{path}: the shapes of {name!r} have {ndim} axes; boxes are saved from 2 or 3.")
    rows = attributes["features"].to_dict("records") if len(attributes["features"].columns) else [{}] * len(data)
    boxes = [box_of(np.asarray(shape), row, name) for shape, row in zip(data, rows, strict=True)]
    shape = tuple(known.get("shape") or _extent(data, ndim))
    image = RetinalImage(np.broadcast_to(np.uint8(0), shape), source=str(known.get("source", name)))
    labels = dict.fromkeys([*known.get("labels", ()), *(box.label for box in boxes)])
    slices = known.get("slices") or range(image.n_slices)
    slices = sorted({*slices, *(box.slice_index for box in boxes)})
    document = coco_detections(image, list(labels), boxes, slices)
    document["info"]["napari"] = _placement(attributes)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [path]


def _checked(data: np.ndarray, name: str) -> np.ndarray:
    if data.ndim not in (2, 3):
        raise OutputError(f"Layer {name!r} has {data.ndim} axes; masks are saved from 2 (y, x) or 3 (z, y, x).")
    if data.size and not 0 <= data.min() <= data.max() <= _MOST:
        raise OutputError(f"Layer {name!r} has numbers from {data.min()} to {data.max()}; the file holds 0 to {_MOST}.")
    return data


def _extent(data: Any, ndim: int) -> list[int]:
    """Size of the smallest image that holds all shapes; what they were drawn on is not known."""
    corners = np.concatenate([np.asarray(shape) for shape in data]) if len(data) else np.zeros((1, ndim))
    return [max(int(n), 8) for n in np.ceil(corners.max(axis=0) + 1)]


def _placement(attributes: dict[str, Any]) -> dict[str, Any]:
    place = plain({name: attributes[name] for name in SPATIAL if name in attributes})
    place["units"] = [str(unit) for unit in attributes["units"]]
    return place
