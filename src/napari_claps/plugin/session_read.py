"""Opening a session, ``.claps.zip``: the layers that were saved, as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.plugin.layers import (
    KEY,
    box_colours,
    box_corners,
    box_features,
    box_style,
    image_layer_data,
    mask_colormap,
    mask_features,
)
from napari_claps.plugin.origin import ORIGIN
from napari_claps.plugin.session_style import SESSION, options_of
from napari_claps.session import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    Session,
    ShapeLayer,
    read_session,
)

LayerData = tuple[Any, dict[str, Any], str]


def read_layers(path: Path) -> list[LayerData]:
    """Read a session as layer data tuples, the lowest layer first.

    An image that is referred to and not there, or changed, is left out with a warning.

    Raises
    ------
    InputError
        If the file is damaged, or nothing of it can be shown.
    """
    session = read_session(path)
    facts = _facts(session)
    layers, missing = [], []
    for layer in session.layers:
        try:
            data, options, kind = _layer_data(layer)
            _check(data, options, kind)
        except InputError as error:  # of an image: the rest of the file has been read
            missing.append(str(error))
            continue
        except Exception as error:  # somebody edited the file; napari and its libraries raise anything then
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise InputError(f"{path}: the layer {layer.name!r} cannot be shown ({reason}). The file is damaged or was "
                             "changed by hand.") from error
        if facts:
            options["metadata"] = {**options["metadata"], KEY: {**(options["metadata"].get(KEY) or {}), SESSION: facts}}
        layers.append((data, options, kind))
    if not layers:
        raise InputError(missing[0] if missing else f"{path}: this session holds no layers.")
    if missing:
        from napari.utils.notifications import show_warning

        show_warning("\n".join(missing))
    return layers


def _layer_data(layer: Layer) -> LayerData:
    if isinstance(layer, ImageLayer):
        return _image_data(layer)
    if isinstance(layer, MaskLayer):
        return _mask_data(layer)
    if isinstance(layer, BoxLayer):
        return _box_data(layer)
    return _shape_data(layer)


def _image_data(layer: ImageLayer) -> LayerData:
    path = None
    if isinstance(layer.image, ImageReference):
        path = layer.image.locate()
        image = read(path)
    else:
        image = layer.image
    data, options, kind = image_layer_data(image, layer.name, path=path)
    known = layer.metadata if layer.style else {KEY: options["metadata"][KEY]}  # without a look: not from a viewer
    metadata = {**known, ORIGIN: options["metadata"][ORIGIN]}
    return data, options | _common(layer, "image") | {"metadata": metadata}, kind


def _mask_data(layer: MaskLayer) -> LayerData:
    options = {"opacity": 0.6, "colormap": mask_colormap(layer.label), **_common(layer, "labels")}
    if not layer.style:  # not from a viewer: as a masks file is shown
        options["features"] = mask_features(layer.label, layer.data)
        options["metadata"] = {KEY: {"content": "masks", "label": layer.label}}
    if layer.colours is not None:
        from napari.utils.colormaps import DirectLabelColormap

        options["colormap"] = DirectLabelColormap(color_dict={None: (0, 0, 0, 0), **layer.colours})
    return layer.data, options, "labels"


def _box_data(layer: BoxLayer) -> LayerData:
    is_volume = len(layer.shape) == 3
    colours = box_colours(layer.boxes) if layer.colours is None else np.array(layer.colours)
    options: dict[str, Any] = {"ndim": len(layer.shape), "shape_type": "rectangle",
                               **box_style((layer.shape[-2], layer.shape[-1]))}
    options |= _common(layer, "shapes")
    if not layer.style:
        labels = list(dict.fromkeys(box.label for box in layer.boxes))
        options["features"] = box_features(layer.boxes)
        options["metadata"] = {KEY: {"content": "boxes", "labels": labels, "shape": list(layer.shape)}}
    if layer.boxes:
        options["edge_color"] = colours
    corners = [box_corners(box, is_volume=is_volume) for box in layer.boxes]
    return corners, options if corners else _of_none(options), "shapes"


def _shape_data(layer: ShapeLayer) -> LayerData:
    kind = "points" if layer.lengths is None else "shapes"
    options = {"ndim": layer.vertices.shape[1], **_common(layer, kind)}
    if not len(layer.vertices):
        return None, _of_none(options), kind
    if layer.lengths is None:
        return layer.vertices, options, kind
    return np.split(layer.vertices, np.cumsum(layer.lengths)[:-1]), options, kind


def _common(layer: Layer, kind: str) -> dict[str, Any]:
    """What all layers have; a placement that says nothing leaves what was there."""
    place = {name: value for name, value in vars(layer.placement).items() if value is not None}
    if "affine" in place:
        place["affine"] = np.array(place["affine"])
    table = {} if isinstance(layer, ImageLayer) else {"features": layer.features}
    return {"name": layer.name, **table, **place, **options_of(layer.style, kind), "metadata": dict(layer.metadata)}


def _of_none(options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a layer without shapes or points: a list holds the value of the next one, or nothing."""
    return {name: value if not isinstance(value, list) else value[0] if isinstance(value[0], str) else np.array(value)
            for name, value in options.items() if not (isinstance(value, list) and not value)}


def _check(data: Any, options: Mapping[str, Any], kind: str) -> None:
    """Make the layer once, so that a look that cannot be shown is noticed while the file is known."""
    from napari.layers import Layer

    if kind in ("image", "labels"):  # a small one: here the look does not depend on the pixels
        colour = (3,) if options.get("rgb") else ()
        data = np.zeros((2,) * (data.ndim - len(colour)) + colour, data.dtype)
    Layer.create(data, dict(options), kind)


def _facts(session: Session) -> dict[str, Any]:
    """What belongs to no layer, in plain types; the layers carry it, so that saving them again does not lose it."""
    settings = None if session.settings is None else dataclasses.asdict(session.settings)
    facts = {"settings": settings, "targets": list(session.targets), "provenance": dict(session.provenance)}
    return facts if any(facts.values()) else {}
