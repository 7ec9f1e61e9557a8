"""Boxes from COCO detections, as ``claps segment`` and the plugin write them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.types import Box, BoxSource


@dataclass(frozen=True)
class Detections:
    """What a ``boxes.json`` says.

    Parameters
    ----------
    boxes : tuple of Box
    labels : tuple of str
        Everything that was looked for, also where nothing was found.
    slices : tuple of int
        Slices that were looked at, ascending.
    plane_shape : tuple of int or None
        Height and width of a slice in pixels; None if no slice was looked at, or the file does not say.
    info : mapping
        Further facts, in plain JSON types.
    """

    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    slices: tuple[int, ...]
    plane_shape: tuple[int, int] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


def read_detections(path: str | Path) -> Detections:
    """Read a ``boxes.json``.

    Parameters
    ----------
    path : path

    Returns
    -------
    Detections
        A box without score is certain, one without source is the user's.

    Raises
    ------
    InputError
        If the file cannot be read or is no COCO file with categories.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        labels = {category["id"]: str(category["name"]) for category in found["categories"]}
        slices = {image["id"]: int(image.get("slice_index", 0)) for image in found["images"]}
        sizes = [(int(image["height"]), int(image["width"])) for image in found["images"] if "height" in image]
        return Detections(
            tuple(_box(item, labels, slices) for item in found["annotations"]), tuple(labels.values()),
            tuple(sorted(slices.values())), sizes[0] if sizes else None, dict(found.get("info") or {}),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as boxes ({type(error).__name__}: {error}).") from error


def _box(item: Mapping[str, Any], labels: Mapping[int, str], slices: Mapping[int, int]) -> Box:
    x, y, width, height = (float(value) for value in item["bbox"])
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"the box {item['bbox']} is not four numbers")
    return Box(
        y, x, y + height, x + width, label=labels[item["category_id"]], score=float(item.get("score", 1.0)),
        slice_index=slices[item["image_id"]], instance=int(item.get("instance", 0)),
        source=BoxSource(item.get("source", BoxSource.USER)),
        uncertainty=None if item.get("uncertainty") is None else float(item["uncertainty"]),
    )
