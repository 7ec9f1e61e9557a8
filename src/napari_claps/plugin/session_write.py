"""Saving the layers of a viewer as a session, ``.claps.zip``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from napari_claps.errors import ClapsError, OutputError
from napari_claps.plugin.layers import BOX_COLUMNS, KEY, SPATIAL, box_of, plain, spacing_in
from napari_claps.plugin.origin import ORIGIN, Origin
from napari_claps.plugin.session_style import SESSION, style_of
from napari_claps.session import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    Placement,
    Session,
    ShapeLayer,
    write_session,
)
from napari_claps.settings import Settings
from napari_claps.study.replay import request_of
from napari_claps.types import Modality, RetinalImage, SpacingSource

LayerData = tuple[Any, dict[str, Any], str]

_TOLERANCE = 1e-3
"""Pixels by which a rectangle may be off the axes and still be a box: moving one in the viewer rounds."""


def write_layers(path: str, layers: list[LayerData]) -> list[str]:
    """Save image, labels, shapes and points layers, lowest first, to open them again as they are.

    An image is kept as a reference where this program opened it from a file that still has its
    pixels, else as a copy.

    Raises
    ------
    OutputError
        If a layer has no place in a session, or the file cannot be written.
    """
    try:
        session = Session(tuple(_layer(*layer) for layer in layers), **_facts([a for _, a, _ in layers]))
    except OutputError:
        raise
    except ClapsError as error:
        raise OutputError(f"{path}: the session cannot be written. {error}") from error
    write_session(path, session)
    return [path]


def _layer(data: Any, attributes: dict[str, Any], kind: str) -> Layer:
    common = {
        "name": attributes["name"],
        "placement": Placement(**{name: attributes[name] for name in SPATIAL}),
        "style": style_of(attributes, kind),
        "metadata": _metadata(attributes["metadata"]),
    }
    if attributes.get("multiscale"):
        data = data[0]
    if kind == "image":
        return ImageLayer(image=_image(data, attributes), **common)
    common["features"] = attributes["features"].reset_index(drop=True)
    if kind == "labels":
        known = attributes["metadata"].get(KEY) or {}
        colours = getattr(attributes["colormap"], "color_dict", None)
        if colours is not None:
            colours = {key: tuple(float(c) for c in colour) for key, colour in colours.items()}
        return MaskLayer(label=known.get("label") or attributes["name"], data=np.asarray(data), colours=colours,
                         **common)  # fmt: skip
    if kind == "points":
        return ShapeLayer(vertices=np.asarray(data, float).reshape(-1, attributes["ndim"]), **common)
    return _boxes(data, attributes, common) or ShapeLayer(
        vertices=np.concatenate([np.empty((0, attributes["ndim"])), *data]).astype(np.float32),
        lengths=np.array([len(shape) for shape in data], np.int64), **common,
    )  # fmt: skip


def _image(data: Any, attributes: Mapping[str, Any]) -> ImageReference | RetinalImage:
    origin = attributes["metadata"].get(ORIGIN)
    pixels = np.asarray(data)
    if isinstance(origin, Origin):
        if origin.path is not None and origin.is_still(pixels):
            return ImageReference.of(origin.path)
        if origin.image.data.shape == pixels.shape:
            return dataclasses.replace(origin.image, data=pixels)
    name, rgb = attributes["name"], bool(attributes["rgb"])
    if rgb and pixels.shape[-1] == 4:
        opaque = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        if (pixels[..., 3] != opaque).any():
            raise OutputError(f"Layer {name!r} has transparent pixels, which a session cannot hold. Save it alone.")
        pixels = pixels[..., :3]
    known, spacing = attributes["metadata"].get(KEY) or {}, spacing_in(attributes)
    return RetinalImage(
        pixels, rgb=rgb, spacing=spacing, source=name, laterality=known.get("laterality"),
        modality=Modality(known["modality"]) if known.get("modality") in set(Modality) else None,
        spacing_source=SpacingSource.USER if spacing else SpacingSource.NONE,
    )  # fmt: skip


def _boxes(data: Sequence[np.ndarray], attributes: Mapping[str, Any], common: dict[str, Any]) -> BoxLayer | None:
    """The boxes of a boxes layer; None if its shapes are anything else."""
    table, ndim = common["features"], attributes["ndim"]
    if ndim not in (2, 3) or not set(BOX_COLUMNS) <= set(table.columns):
        return None
    shapes = [np.asarray(shape) for shape in data]
    if not all(kind == "rectangle" and _is_upright(shape) for shape, kind in
               zip(shapes, attributes["shape_type"], strict=True)):  # fmt: skip
        return None
    known = attributes["metadata"].get(KEY) or {}
    boxes = tuple(box_of(shape, row, attributes["name"])
                  for shape, row in zip(shapes, table.to_dict("records"), strict=True))
    shape = known.get("shape") or np.ceil(np.max([[8.0] * ndim, *(s.max(axis=0) + 1 for s in shapes)], axis=0))
    style = {name: value for name, value in common["style"].items() if name not in ("edge_color", "shape_type")}
    colours = ((float(r), float(g), float(b), float(a)) for r, g, b, a in attributes["edge_color"][: len(boxes)])
    return BoxLayer(boxes=boxes, shape=tuple(int(n) for n in shape), colours=tuple(colours),
                    **(common | {"style": style}))


def _is_upright(corners: np.ndarray) -> bool:
    """Whether the sides of a rectangle run along the axes, within one slice."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    off = np.minimum(abs(corners - low), abs(corners - high)).max(axis=0)
    return bool((off[-2:] <= _TOLERANCE).all() and (high - low)[:-2].sum() == 0)


def _metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    """What has a place in JSON; other programs keep objects in the metadata, too."""
    kept = {}
    for name, value in found.items():
        if name == KEY:
            value = {key: inner for key, inner in plain(value).items() if key != SESSION}
            if not value:
                continue
        try:
            kept[str(name)] = json.loads(json.dumps(value))
        except (TypeError, ValueError, RecursionError):
            continue
    return kept


def _facts(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings, targets and provenance: of the session that the layers came from, else of the last run."""
    known = [found for attributes in layers if isinstance(found := attributes["metadata"].get(KEY), Mapping)]
    opened = next((found[SESSION] for found in known if SESSION in found), None)
    runs = [found for found in known if isinstance(found.get("provenance"), Mapping)]
    labels = [str(found["label"]) for found in known if found.get("content") == "masks" and "label" in found]
    facts = opened or (_facts_of_run(max(runs, key=_run_number)["provenance"]) if runs else {})
    settings = None
    with contextlib.suppress(ClapsError):  # metadata may say anything; a layer is not lost for it
        settings = facts.get("settings") and Settings().updated(facts["settings"])
    return {
        "settings": settings,
        "targets": tuple(dict.fromkeys([*facts.get("targets", ()), *labels])),
        "provenance": facts.get("provenance", {}),
    }


def _run_number(known: Mapping[str, Any]) -> int:
    """Number of the run over an image; metadata may say anything."""
    number = known.get("run")
    return number if isinstance(number, int) else 0


def _facts_of_run(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and provenance of the run that the metadata of a result layer tell of."""
    with contextlib.suppress(ClapsError):
        return {"settings": dataclasses.asdict(request_of(provenance, where="metadata").settings),
                "provenance": provenance}
    return {}
