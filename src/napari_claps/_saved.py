"""Masks and boxes that this program wrote, as napari layers again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_claps._layers import KEY, box_colours, box_corners, box_features, box_style, mask_colormap, mask_features
from napari_claps.appearance import shown_name
from napari_claps.errors import InputError
from napari_claps.io.coco import read_detections
from napari_claps.io.units import mm_per
from napari_claps.vocabulary import TARGETS

LayerData = tuple[Any, dict[str, Any], str]


def is_masks_file(path: Path) -> bool:
    """Whether `path` is a TIFF whose channels are masks: written by this program, or named like our targets."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            if not tif.is_ome or tif.series[0].dtype.kind != "u":
                return False
            names = _channels(tif)
            ours = str(tif.pages.first.software).startswith("napari-claps")
    except Exception:  # not a TIFF, or a damaged one: the image reader says what is wrong
        return False
    return bool(names) and (ours or all(name in TARGETS for name in names))


def read_masks(path: Path) -> list[LayerData]:
    """Read a masks file as one Labels layer per target.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            names, spacing = _channels(tif), _spacing(tif)
            series = tif.series[0]
            masks = series.asarray(maxworkers=1).reshape(series.get_shape(squeeze=False))
            axes = series.get_axes(squeeze=False)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as masks ({error}). The file is damaged or truncated.") from error
    masks = np.moveaxis(masks, [axes.index(axis) for axis in "CZYX"], range(-4, 0))
    masks = masks.reshape(masks.shape[-4:])
    if masks.shape[1] == 1 and "z" not in spacing:
        masks = masks[:, 0]
    ndim = masks.ndim - 1
    place = _placed([spacing.get(axis) for axis in "zyx"[-ndim:]])
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
    except (OSError, ValueError, KeyError, TypeError):
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
    place = found.info.get("napari") or _beside(path)
    is_volume = len(place.get("scale", ())) == 3 or max(found.slices, default=0) > 0
    options = {
        "name": "boxes", "ndim": 3 if is_volume else 2, "shape_type": "rectangle", "edge_color": box_colours(boxes),
        "features": box_features(boxes), "metadata": {KEY: {"content": "boxes", "labels": list(found.labels)}},
        **box_style(found.plane_shape or (512, 512)), **place,
    }
    if not boxes:
        options["edge_color"] = "white"
    return [([box_corners(box, is_volume=is_volume) for box in boxes], options, "shapes")]


def _beside(path: Path) -> dict[str, Any]:
    try:
        spacing = json.loads(path.with_name("provenance.json").read_text(encoding="utf-8"))["spacing"]["mm"]
        return _placed(list(spacing)) if spacing else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _placed(spacing: list[float | None]) -> dict[str, Any]:
    axes = "zyx"[-len(spacing):]
    place: dict[str, Any] = {"axis_labels": tuple(axes)}
    if None not in spacing:
        place |= {"scale": tuple(spacing), "units": ("mm",) * len(axes)}
    return place


def _pixels(tif: tifffile.TiffFile) -> ElementTree.Element:
    pixels = ElementTree.fromstring(tif.ome_metadata or "").find(".//{*}Image/{*}Pixels")
    if pixels is None:
        raise ValueError("no Pixels element")
    return pixels


def _channels(tif: tifffile.TiffFile) -> list[str]:
    return [name for channel in _pixels(tif).findall("{*}Channel") if (name := channel.get("Name"))]


def _spacing(tif: tifffile.TiffFile) -> dict[str, float]:
    pixels, spacing = _pixels(tif), {}
    for axis in "XYZ":
        size, factor = pixels.get(f"PhysicalSize{axis}"), mm_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is not None and factor is not None:
            spacing[axis.lower()] = float(size) * factor
    return spacing
