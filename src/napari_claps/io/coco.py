"""Boxes from COCO detections, as ``claps segment`` and the plugin write them."""

from __future__ import annotations

import json
from pathlib import Path

from napari_claps.errors import InputError
from napari_claps.types import Box, BoxSource


def read_detections(path: str | Path) -> tuple[Box, ...]:
    """Read the boxes of a ``boxes.json``.

    Parameters
    ----------
    path : path

    Returns
    -------
    tuple of Box
        A detection without score is certain, one without source is the user's.

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
        boxes = []
        for item in found["annotations"]:
            x, y, width, height = (float(value) for value in item["bbox"])
            boxes.append(Box(
                y, x, y + height, x + width, label=labels[item["category_id"]], score=float(item.get("score", 1.0)),
                slice_index=slices[item["image_id"]], instance=int(item.get("instance", 0)),
                source=BoxSource(item.get("source", BoxSource.USER)),
            ))  # fmt: skip
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as boxes ({type(error).__name__}: {error}).") from error
    return tuple(boxes)
