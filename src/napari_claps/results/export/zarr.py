"""Masks as OME-Zarr (OME-NGFF 0.4), chunked and written plane by plane."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.files.atomic import atomic_path
from napari_claps.io.optional import require
from napari_claps.results.saved_result import SavedResult, file_names
from napari_claps.types import RetinalImage
from napari_claps.words.appearance import label_colour, shown_name

VERSION = "0.4"
"""Of OME-NGFF, on Zarr 2: more programs read it than 0.5."""

CHUNK = 1024
"""Largest side of a chunk in pixels; a chunk is one slice deep, as the slices come and go one by one."""


def write_ome_zarr(result: SavedResult, path: Path, *, source: Path | None = None) -> list[Path]:
    """Write a folder ``NAME.ome.zarr`` with one label image per target under ``labels/``.

    Parameters
    ----------
    result : SavedResult
    path : Path
    source : Path, optional
        The image. Its pixels become the image of the folder, which the format expects beside labels; without
        it a viewer opens ``NAME.ome.zarr/labels``, or one of the targets in there.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        If zarr is missing, or the source cannot be read or is of another size.
    OutputError
        If the folder cannot be written; nothing is left of it, then.

    Notes
    -----
    Axes are (z,) y, x, with c before them for a colour image; the scale is in mm when the spacing is known, else 1
    without a unit. ``image-label`` has the colour of the target, and target, name, number of pixels and of slices
    of every instance. There is one resolution: slices of OCT are small. Memory holds one plane.
    """
    zarr = require("zarr", extra="export", what=f"{path}: writing OME-Zarr")
    numcodecs = require("numcodecs", extra="export", what=f"{path}: writing OME-Zarr")
    image = None if source is None else result.read_image(source)
    names = file_names(result.names)
    with atomic_path(path) as temporary:
        root = zarr.open_group(store=str(temporary), mode="w", zarr_format=2)

        def new_array(group: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
            chunks = (*(1,) * (len(shape) - 2), *(min(side, CHUNK) for side in shape[-2:]))
            return group.create_array(
                name="0", shape=shape, chunks=chunks, dtype=dtype, fill_value=0, compressors=numcodecs.Zlib(level=4),
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )  # fmt: skip

        if image is not None:
            _write_image(root, image, result, new_array)
        labels = root.create_group("labels")
        labels.attrs["labels"] = list(names.values())
        for name, folder in names.items():
            group = labels.create_group(folder)
            array = new_array(group, result.shape, np.dtype(np.uint16))
            counts = _write_planes(array, result.planes(name))
            group.attrs.update({
                "multiscales": _multiscales(result, name, colour=False),
                "image-label": _image_label(name, counts, has_image=image is not None),
            })  # fmt: skip
    return [path]


def _write_planes(array: Any, planes: Iterable[np.ndarray]) -> dict[int, list[int]]:
    """Write the planes, and return instance -> [pixels, slices]."""
    counts: dict[int, list[int]] = {}
    for index, plane in enumerate(planes):
        array[index if array.ndim == 3 else ...] = plane
        for instance, pixels in zip(*np.unique(plane[plane > 0], return_counts=True), strict=True):
            row = counts.setdefault(int(instance), [0, 0])
            row[0] += int(pixels)
            row[1] += 1
    return counts


def _image_label(name: str, counts: dict[int, list[int]], *, has_image: bool) -> dict[str, Any]:
    rgba = [*label_colour(name), 255]
    facts: dict[str, Any] = {"version": VERSION}
    if counts:  # the format has no empty lists
        facts["colors"] = [{"label-value": instance, "rgba": rgba} for instance in sorted(counts)]
        facts["properties"] = [
            {"label-value": instance, "target": name, "name": shown_name(name), "pixels": pixels, "slices": slices}
            for instance, (pixels, slices) in sorted(counts.items())
        ]
    return facts | ({"source": {"image": "../../"}} if has_image else {})


def _write_image(root: Any, image: RetinalImage, result: SavedResult, new_array: Any) -> None:
    shape = (*((3,) if image.rgb else ()), *result.shape)
    array = new_array(root, shape, image.data.dtype)
    for index in range(image.n_slices):
        plane = np.moveaxis(image.plane(index), -1, 0) if image.rgb else image.plane(index)
        array[(..., index, slice(None), slice(None)) if image.is_volume else ...] = plane
    root.attrs["multiscales"] = _multiscales(result, "image", colour=image.rgb)
    if image.rgb:
        window = {"min": 0, "max": 255, "start": 0, "end": 255}
        root.attrs["omero"] = {"channels": [
            {"label": label, "color": colour, "window": window, "active": True}
            for label, colour in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
        ]}  # fmt: skip


def _multiscales(result: SavedResult, name: str, *, colour: bool) -> list[dict[str, Any]]:
    unit = {"unit": "millimeter"} if result.spacing else {}
    axes = [{"name": axis, "type": "space", **unit} for axis in "zyx"[-len(result.shape) :]]
    scale = [float(size) for size in result.spacing or (1.0,) * len(result.shape)]
    if colour:
        axes, scale = [{"name": "c", "type": "channel"}, *axes], [1.0, *scale]
    steps = [{"type": "scale", "scale": scale}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    return [{"version": VERSION, "name": name, "axes": axes, "datasets": datasets}]
