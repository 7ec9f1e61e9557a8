"""From the dataclasses of a session to its JSON document; `napari_claps.session.decode` goes back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps import __version__
from napari_claps.session.document import Session
from napari_claps.session.layers import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    ShapeLayer,
)
from napari_claps.session.table import SCALARS, encode_table
from napari_claps.types import RetinalImage

FORMAT = "napari-claps session"
VERSION = 1

Arrays = list[np.ndarray]

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


def _layer(layer: Layer, arrays: Arrays, folder: Path) -> dict[str, Any]:
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(layer, cls))
    item: dict[str, Any] = {
        "type": kind, "name": layer.name, "placement": dataclasses.asdict(layer.placement),
        "style": _plain(layer.style, f"style of {layer.name!r}"),
        "metadata": _plain(layer.metadata, f"metadata of {layer.name!r}"),
    }  # fmt: skip
    if isinstance(layer, ImageLayer):
        return item | {"image": _image(layer.image, arrays, folder)}
    item["features"] = encode_table(layer.features, layer.name)
    if isinstance(layer, MaskLayer):
        check_masks(layer.data, layer.name)
        pairs = layer.colours and [[key if key is None else int(key), _rgba(c)] for key, c in layer.colours.items()]
        return item | {"label": layer.label, "colours": pairs, "data": _add(arrays, layer.data)}
    if isinstance(layer, ShapeLayer):
        check_shapes(layer)
        return item | {"vertices": _add(arrays, layer.vertices),
                       "lengths": None if layer.lengths is None else _add(arrays, layer.lengths)}
    if len(layer.features.columns) and len(layer.features) != len(layer.boxes):
        raise ValueError(f"{layer.name!r} has {len(layer.boxes)} boxes and {len(layer.features)} rows of features")
    colours = None if layer.colours is None else [_rgba(colour) for colour in layer.colours]
    if colours is not None and len(colours) != len(layer.boxes):
        raise ValueError(f"{layer.name!r} has {len(layer.boxes)} boxes and {len(colours)} colours")
    boxes = [{**dataclasses.asdict(box), "source": str(box.source)} for box in layer.boxes]
    return item | {"boxes": boxes, "colours": colours, "shape": [int(n) for n in layer.shape]}


def check_masks(data: np.ndarray, name: str) -> None:
    """Refuse what holds no instance numbers."""
    if data.dtype.kind not in "ui" or data.ndim not in (2, 3):
        raise ValueError(f"the masks {name!r} are {data.dtype} of shape {data.shape}, not integers in 2 or 3 axes")


def check_shapes(layer: ShapeLayer) -> None:
    """Refuse vertices that do not make the shapes of a layer."""
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


def _rgba(colour: Any) -> list[float]:
    values = [float(c) for c in colour]
    if len(values) != 4 or not all(0 <= c <= 1 for c in values):
        raise ValueError(f"the colour {colour!r} is not four numbers in 0..1")
    return values
