"""Boxes as COCO detections, written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.types import Box, BoxSource, RetinalImage


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


def coco_detections(image: RetinalImage, labels: Sequence[str], boxes: Sequence[Box],
                    slices: Sequence[int]) -> dict[str, Any]:
    """Return scored boxes in the COCO object detection format.

    Parameters
    ----------
    image : RetinalImage
    labels : sequence of str
        Every target looked for; becomes a category also when nothing was found.
    boxes : sequence of Box
    slices : sequence of int
        Slices that were looked at. COCO knows no volumes: each slice is an image of its own, ``id`` = slice index + 1.

    Returns
    -------
    dict
        ``bbox`` is (x, y, width, height) in pixels of the slice. ``instance`` is the number of the object in the
        channel of ``masks.ome.tif``, 0 when the box has no mask.
    """
    height, width = image.plane_shape
    name = Path(image.source).name
    category = {label: number for number, label in enumerate(labels, start=1)}
    return {
        "info": {"description": f"Boxes found in {name} by napari-claps"},
        "images": [{"id": i + 1, "file_name": name, "width": width, "height": height, "slice_index": i}
                   for i in slices],
        "categories": [{"id": number, "name": label, "supercategory": "retina"} for label, number in category.items()],
        "annotations": [
            {
                "id": number,
                "image_id": box.slice_index + 1,
                "category_id": category[box.label],
                "bbox": [round(v, 2) for v in (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)],
                "area": round((box.x1 - box.x0) * (box.y1 - box.y0), 2),
                "iscrowd": 0,
                "score": round(float(box.score), 4),
                "slice_index": box.slice_index,
                "instance": box.instance,
                "source": str(box.source),
                **({} if box.uncertainty is None else {"uncertainty": round(box.uncertainty, 4)}),
            }
            for number, box in enumerate(boxes, start=1)
        ],
    }


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
