"""Masks, uncertainty and boxes that this program wrote, as napari layers again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from napari_claps.errors import ClapsError, InputError
from napari_claps.io.ome import channel_names, physical_sizes
from napari_claps.io.tiff import check_complete
from napari_claps.plugin.layers import (
    KEY,
    SPATIAL,
    UNCERTAINTY_STYLE,
    box_colours,
    box_corners,
    box_features,
    box_style,
    mask_colormap,
    mask_features,
)
from napari_claps.results.coco import read_detections
from napari_claps.words.appearance import shown_name
from napari_claps.words.vocabulary import TARGETS

LayerData = tuple[Any, dict[str, Any], str]


def is_channels_file(path: Path) -> bool:
    """Whether `path` is a TIFF with a channel for each target.

    That is masks, written by this program or named like our targets, or the uncertainty that it wrote.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            kind = tif.series[0].dtype.kind if tif.is_ome else ""
            ours = str(tif.pages.first.software).startswith("napari-claps")
            names = channel_names(tif.ome_metadata) if kind else []
    except Exception:  # not a TIFF, or a damaged one: the image reader says what is wrong
        return False
    return bool(names) and ((ours and kind in "uf") or (kind == "u" and all(name in TARGETS for name in names)))


def read_channels(path: Path) -> list[LayerData]:
    """Read such a file: masks as one Labels layer per target, numbers as one Image layer per target.

    Raises
    ------
    InputError
        If the file is damaged, or claims more than it holds.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            names, sizes = channel_names(tif.ome_metadata), physical_sizes(tif.ome_metadata)
            series = tif.series[0]
            check_complete(tif, series, path)
            masks = series.asarray(maxworkers=1).reshape(series.get_shape(squeeze=False))
            axes = series.get_axes(squeeze=False)
        masks = np.moveaxis(masks, [axes.index(axis) for axis in "CZYX"], range(-4, 0))
        masks = masks.reshape(masks.shape[-4:])
        if len(names) != len(masks):
            raise ValueError(f"{len(names)} of {len(masks)} channels have a name")
    except ClapsError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as masks ({error}). The file is damaged or truncated.") from error
    if masks.shape[1] == 1 and "Z" not in sizes:
        masks = masks[:, 0]
    ndim = masks.ndim - 1
    place = _placed([sizes.get(axis) for axis in "ZYX"[-ndim:]])
    if masks.dtype.kind == "f":
        return [(values, {"name": f"uncertainty {shown_name(name)}", **UNCERTAINTY_STYLE, **place}, "image")
                for name, values in zip(names, masks, strict=True)]
    layers: list[LayerData] = []
    for name, mask in zip(names, masks, strict=True):
        metadata = {KEY: {"content": "masks", "label": name}}
        options = {"name": shown_name(name), "opacity": 0.6, "colormap": mask_colormap(name),
                   "features": mask_features(name, mask), "metadata": metadata, **place}
        layers.append((mask, options, "labels"))
    return layers


def is_boxes_file(path: Path) -> bool:
    """Whether `path` holds COCO detections with slice numbers, as this program writes them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return all("slice_index" in image for image in found["images"]) and "annotations" in found
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
        return False


def read_boxes(path: Path) -> list[LayerData]:
    """Read COCO detections as one Shapes layer with label and score.

    The file of a result folder does not say how large a pixel is; the provenance beside it does.

    Raises
    ------
    InputError
        If the file is not complete.
    """
    found = read_detections(path)
    boxes = found.boxes
    said = found.info.get("napari")
    place = {name: said[name] for name in SPATIAL if name in said} if isinstance(said, dict) else _beside(path)
    axes = place.get("axis_labels") or place.get("scale") or ()
    is_volume = len(axes) == 3 or max(found.slices, default=0) > 0
    features = box_features(boxes)
    if any(box.uncertainty is not None for box in boxes):
        features["uncertainty"] = pd.Series([box.uncertainty for box in boxes], dtype=float)
    options = {
        "name": "boxes", "ndim": 3 if is_volume else 2, "shape_type": "rectangle", "edge_color": box_colours(boxes),
        "features": features, "metadata": {KEY: {"content": "boxes", "labels": list(found.labels)}},
        **box_style(found.plane_shape or (512, 512)), **place,
    }
    if not boxes:
        options["edge_color"] = "white"
    return [([box_corners(box, is_volume=is_volume) for box in boxes], options, "shapes")]


def _beside(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.with_name("provenance.json").read_text(encoding="utf-8"))["spacing"]
        return _placed(list(said["mm"] or [None] * len(said["axes"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _placed(spacing: list[float | None]) -> dict[str, Any]:
    axes = "zyx"[-len(spacing):]
    place: dict[str, Any] = {"axis_labels": tuple(axes)}
    if None not in spacing:
        place |= {"scale": tuple(spacing), "units": ("mm",) * len(axes)}
    return place
