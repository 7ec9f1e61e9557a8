"""Between the dataclasses of a session and its JSON document."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps import __version__
from napari_claps.errors import InputError
from napari_claps.session.document import Session
from napari_claps.session.layers import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    Placement,
    ShapeLayer,
)
from napari_claps.session.table import SCALARS, decode_table, encode_table, text
from napari_claps.settings import Settings
from napari_claps.types import Box, BoxSource, Modality, RetinalImage, SpacingSource

FORMAT = "napari-claps session"
VERSION = 1

Arrays = list[np.ndarray]
ReadArray = Callable[[int], np.ndarray]

_KINDS: dict[str, type[Layer]] = {"image": ImageLayer, "masks": MaskLayer, "boxes": BoxLayer, "shapes": ShapeLayer}


def encode(session: Session, arrays: Arrays, *, folder: Path) -> dict[str, Any]:
    """Return the document; arrays are appended to `arrays` and stand in it as their number.

    Raises
    ------
    ValueError, TypeError
        If something has no place in JSON.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "program": f"napari-claps {__version__}",
        "settings": None if session.settings is None else dataclasses.asdict(session.settings),
        "targets": list(session.targets),
        "provenance": _plain(session.provenance, "provenance"),
        "layers": [_layer(layer, arrays, folder) for layer in session.layers],
    }


def decode(document: dict[str, Any], read_array: ReadArray, *, folder: Path) -> Session:
    """Return the session of a document.

    Raises
    ------
    InputError
        If it was written by a newer version, or a value is impossible.
    KeyError, TypeError, ValueError
        If something is missing or of the wrong type.
    """
    if document.get("format") != FORMAT:
        raise ValueError("the document is not that of a session")
    if (version := document["version"]) != VERSION:
        raise InputError(
            f"The session is of version {version!r}; this program reads version {VERSION}. "
            "Update napari-claps (pip install --upgrade napari-claps)."
        )
    settings = document["settings"]
    return Session(
        layers=tuple(_read_layer(item, read_array, folder) for item in document["layers"]),
        settings=None if settings is None else Settings().updated(_mapping(settings), where="session"),
        targets=tuple(text(target) for target in document["targets"]),
        provenance=_mapping(document["provenance"]),
    )


def _layer(layer: Layer, arrays: Arrays, folder: Path) -> dict[str, Any]:
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(layer, cls))
    item = {
        "type": kind, "name": layer.name, "placement": dataclasses.asdict(layer.placement),
        "style": _plain(layer.style, f"style of {layer.name!r}"),
        "metadata": _plain(layer.metadata, f"metadata of {layer.name!r}"),
    }  # fmt: skip
    if isinstance(layer, ImageLayer):
        return item | {"image": _image(layer.image, arrays, folder)}
    item["features"] = encode_table(layer.features, layer.name)
    if isinstance(layer, MaskLayer):
        _check_masks(layer.data, layer.name)
        colours = layer.colours and [[key if key is None else int(key), _rgba(c)] for key, c in layer.colours.items()]
        return item | {"label": layer.label, "colours": colours, "data": _add(arrays, layer.data)}
    if isinstance(layer, ShapeLayer):
        _check_shapes(layer)
        return item | {"vertices": _add(arrays, layer.vertices),
                       "lengths": None if layer.lengths is None else _add(arrays, layer.lengths)}
    if len(layer.features.columns) and len(layer.features) != len(layer.boxes):
        raise ValueError(f"{layer.name!r} has {len(layer.boxes)} boxes and {len(layer.features)} rows of features")
    colours = None if layer.colours is None else [_rgba(colour) for colour in layer.colours]
    if colours is not None and len(colours) != len(layer.boxes):
        raise ValueError(f"{layer.name!r} has {len(layer.boxes)} boxes and {len(colours)} colours")
    boxes = [{**dataclasses.asdict(box), "source": str(box.source)} for box in layer.boxes]
    return item | {"boxes": boxes, "colours": colours, "shape": [int(n) for n in layer.shape]}


def _read_layer(item: dict[str, Any], read_array: ReadArray, folder: Path) -> Layer:
    cls = _KINDS[item["type"]]
    common = {
        "name": text(item["name"]), "placement": Placement(**item["placement"]),
        "style": _mapping(item["style"]), "metadata": _mapping(item["metadata"]),
    }  # fmt: skip
    if cls is ImageLayer:
        return ImageLayer(image=_read_image(item["image"], read_array, folder), **common)
    common["features"] = decode_table(item["features"])
    if cls is ShapeLayer:
        lengths = item["lengths"]
        layer = ShapeLayer(vertices=read_array(item["vertices"]),
                           lengths=None if lengths is None else read_array(lengths), **common)
        _check_shapes(layer)
        _check_axes(common, layer.vertices.shape[1])
        return layer
    colours = item["colours"]
    if cls is MaskLayer:
        data = read_array(item["data"])
        _check_masks(data, common["name"])
        _check_axes(common, data.ndim)
        colours = colours and {key if key is None else int(key): tuple(_rgba(c)) for key, c in colours}
        return MaskLayer(label=text(item["label"]), data=data, colours=colours, **common)
    shape = tuple(int(n) for n in item["shape"])
    _check_axes(common, len(shape))
    boxes = tuple(_read_box(box) for box in item["boxes"])
    if colours is not None and len(colours) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes have {len(colours)} colours")
    colours = None if colours is None else tuple(tuple(_rgba(colour)) for colour in colours)
    return BoxLayer(boxes=boxes, shape=shape, colours=colours, **common)


def _check_masks(data: np.ndarray, name: str) -> None:
    if data.dtype.kind not in "ui" or data.ndim not in (2, 3):
        raise ValueError(f"the masks {name!r} are {data.dtype} of shape {data.shape}, not integers in 2 or 3 axes")


def _check_shapes(layer: ShapeLayer) -> None:
    vertices, lengths = layer.vertices, layer.lengths
    if vertices.dtype.kind != "f" or vertices.ndim != 2 or not np.isfinite(vertices).all():
        raise ValueError(f"the positions of {layer.name!r} are not finite numbers, one row per vertex")
    if lengths is not None and (
        lengths.dtype.kind not in "iu" or lengths.ndim != 1 or ((lengths < 1) | (lengths > len(vertices))).any()
        or lengths.sum() != len(vertices)
    ):
        raise ValueError(f"the shapes of {layer.name!r} do not share out its {len(vertices)} vertices")
    n = len(vertices) if lengths is None else len(lengths)
    if len(layer.features.columns) and len(layer.features) != n:
        raise ValueError(f"{layer.name!r} has {n} shapes and {len(layer.features)} rows of features")


def _check_axes(common: dict[str, Any], ndim: int) -> None:
    placed = common["placement"].ndim
    if placed is not None and placed != ndim:
        raise ValueError(f"{common['name']!r} has {ndim} axes, but is placed in {placed}")


def _image(image: ImageReference | RetinalImage, arrays: Arrays, folder: Path) -> dict[str, Any]:
    if isinstance(image, ImageReference):
        inside = Path(image.path).is_relative_to(folder)
        # An absolute path names the machine and its user; it is kept only where the image lies elsewhere.
        return {"path": _relative(image.path, folder), "absolute": None if inside else image.path,
                "sha256": image.sha256}  # fmt: skip
    # Where the slice distance is not known, the spacing of a slice stands among the metadata, as it always did.
    plane = {} if image.spacing or not image.plane_spacing else {"plane_spacing": image.plane_spacing}
    return {
        "data": _add(arrays, image.data), "rgb": image.rgb, "modality": image.modality and str(image.modality),
        "spacing": image.spacing and [float(s) for s in image.spacing], "spacing_source": str(image.spacing_source),
        "laterality": image.laterality, "source": Path(image.source).name, "device": image.device,
        "metadata": _plain({**image.metadata, **plane}, "metadata of the image"),
        "localizer": image.localizer and _image(image.localizer, arrays, folder),
        "scan_lines": None if image.scan_lines is None else _add(arrays, image.scan_lines),
        "layers": {name: _add(arrays, line) for name, line in image.layers.items()},
    }  # fmt: skip


def _read_image(item: dict[str, Any], read_array: ReadArray, folder: Path) -> ImageReference | RetinalImage:
    if "sha256" in item:
        beside = Path(os.path.normpath(folder / text(item["path"])))
        absolute = item["absolute"]
        path = beside if absolute is None or beside.exists() else Path(text(absolute))
        return ImageReference(str(path), text(item["sha256"]))
    spacing, modality, localizer, lines = (item[name] for name in ("spacing", "modality", "localizer", "scan_lines"))
    metadata = {name: _tuples(value) for name, value in _mapping(item["metadata"]).items()}
    return RetinalImage(
        read_array(item["data"]), rgb=bool(item["rgb"]), modality=modality and Modality(modality),
        spacing=spacing and tuple(float(s) for s in spacing), spacing_source=SpacingSource(item["spacing_source"]),
        laterality=item["laterality"], source=text(item["source"]), device=item["device"],
        plane_spacing=metadata.pop("plane_spacing", None), metadata=metadata,
        localizer=localizer and _read_image(localizer, read_array, folder),
        scan_lines=None if lines is None else read_array(lines),
        layers={name: read_array(number) for name, number in _mapping(item["layers"]).items()},
    )  # fmt: skip


def _relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return path


def _add(arrays: Arrays, array: np.ndarray) -> int:
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise TypeError(f"an array holds {array.dtype}, not numbers")
    arrays.append(array)
    return len(arrays) - 1


def _read_box(item: dict[str, Any]) -> Box:
    numbers = {name: float(item[name]) for name in ("y0", "x0", "y1", "x1", "score")}
    uncertainty = None if item.get("uncertainty") is None else float(item["uncertainty"])  # version 0.1 had none
    return Box(**numbers, label=text(item["label"]), slice_index=int(item["slice_index"]),
               instance=int(item["instance"]), source=BoxSource(item["source"]), uncertainty=uncertainty)


def _plain(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Copy in plain JSON types; arrays and tuples become lists."""

    def copied(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): copied(inner) for key, inner in value.items()}
        if isinstance(value, np.ndarray | np.generic):
            return copied(value.tolist())
        if isinstance(value, list | tuple):
            return [copied(inner) for inner in value]
        if isinstance(value, SCALARS):
            return value
        raise TypeError(f"the {what} holds a {type(value).__name__}, which is no plain value")

    return copied(values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _rgba(colour: Any) -> list[float]:
    values = [float(c) for c in colour]
    if len(values) != 4 or not all(0 <= c <= 1 for c in values):
        raise ValueError(f"the colour {colour!r} is not four numbers in 0..1")
    return values


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{str(value)[:40]!r} should be a mapping")
    return value
