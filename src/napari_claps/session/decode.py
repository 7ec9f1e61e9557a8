"""From the JSON document of a session to its dataclasses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.files.schema import checked
from napari_claps.session.document import Session
from napari_claps.session.json import FORMAT, VERSION, check_masks, check_shapes
from napari_claps.session.layers import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    Placement,
    ShapeLayer,
)
from napari_claps.session.schema import (
    AnyLayerPart,
    BoxLayerPart,
    DocumentPart,
    ImageLayerPart,
    ImagePart,
    MaskLayerPart,
    ReferencePart,
)
from napari_claps.session.table import decode_table
from napari_claps.settings import Settings
from napari_claps.types import Box, RetinalImage

ReadArray = Callable[[int], np.ndarray]


def decode(document: dict[str, Any], read_array: ReadArray, *, folder: Path) -> Session:
    """Return the session of a document.

    Raises
    ------
    InputError
        If it was written by a newer version, or something is missing, of the wrong type or impossible.
    KeyError, TypeError, ValueError
        If arrays or tables are damaged.
    """
    if document.get("format") != FORMAT:
        raise ValueError("the document is not that of a session")
    if (version := document.get("version")) != VERSION:
        raise InputError(
            f"The session is of version {str(version)[:20]}; this program reads version {VERSION}. "
            "Update napari-claps (pip install --upgrade napari-claps)."
        )
    content = checked(DocumentPart, document)
    return Session(
        layers=tuple(_layer(part, read_array, folder) for part in content.layers),
        settings=None if content.settings is None else Settings().updated(content.settings),
        targets=content.targets,
        provenance=content.provenance,
    )


def _layer(part: AnyLayerPart, read_array: ReadArray, folder: Path) -> Layer:
    name, placement, style, metadata = part.name, part.placement, part.style, part.metadata
    if isinstance(part, ImageLayerPart):
        return ImageLayer(name, _image(part.image, read_array, folder), placement, style, metadata)
    features = decode_table(part.features)
    if isinstance(part, MaskLayerPart):
        data = read_array(part.data)
        check_masks(data, name)
        _check_axes(name, placement, data.ndim)
        colours = None if part.colours is None else dict(part.colours)
        return MaskLayer(name, part.label, data, colours, features, placement, style, metadata)
    if isinstance(part, BoxLayerPart):
        _check_axes(name, placement, len(part.shape))
        if part.colours is not None and len(part.colours) != len(part.boxes):
            raise ValueError(f"{len(part.boxes)} boxes have {len(part.colours)} colours")
        boxes = tuple(Box(**dict(box)) for box in part.boxes)
        return BoxLayer(name, boxes, part.shape, part.colours, features, placement, style, metadata)
    lengths = None if part.lengths is None else read_array(part.lengths)
    layer = ShapeLayer(name, read_array(part.vertices), lengths, features, placement, style, metadata)
    check_shapes(layer)
    _check_axes(name, placement, layer.vertices.shape[1])
    return layer


def _image(part: ReferencePart | ImagePart, read_array: ReadArray, folder: Path) -> ImageReference | RetinalImage:
    if isinstance(part, ImagePart):
        return _copy(part, read_array)
    beside = Path(os.path.normpath(folder / part.path))
    path = beside if part.absolute is None or beside.exists() else Path(part.absolute)
    return ImageReference(str(path), part.sha256)


def _copy(part: ImagePart, read_array: ReadArray) -> RetinalImage:
    metadata = {name: _tuples(value) for name, value in part.metadata.items()}
    return RetinalImage(
        read_array(part.data), rgb=part.rgb, modality=part.modality, spacing=part.spacing,
        spacing_source=part.spacing_source, laterality=part.laterality, source=part.source, device=part.device,
        plane_spacing=metadata.pop("plane_spacing", None), metadata=metadata,
        localizer=None if part.localizer is None else _copy(part.localizer, read_array),
        scan_lines=None if part.scan_lines is None else read_array(part.scan_lines),
        layers={name: read_array(number) for name, number in part.layers.items()},
    )  # fmt: skip


def _check_axes(name: str, placement: Placement, ndim: int) -> None:
    if placement.ndim not in (None, ndim):
        raise ValueError(f"{name!r} has {ndim} axes, but is placed in {placement.ndim}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
