"""Boxes as COCO detections, written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.files.schema import Finite, Part, Whole, checked, read_json
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
    where = f"{path}: cannot be read as boxes"
    found = checked(CocoFile, read_json(path, what="boxes"), where=where)
    labels = {category.id: category.name for category in found.categories}
    slices = {image.id: image.slice_index for image in found.images}
    sizes = [(image.height, image.width) for image in found.images if image.height and image.width]
    for number, item in enumerate(found.annotations):
        for name, value, known in (("category_id", item.category_id, labels), ("image_id", item.image_id, slices)):
            if value not in known:
                raise InputError(f"{where}: annotations[{number}].{name} = {value} is not listed above.")
    boxes = tuple(_box(item, labels[item.category_id], slices[item.image_id]) for item in found.annotations)
    return Detections(boxes, tuple(labels.values()), tuple(sorted(slices.values())), sizes[0] if sizes else None,
                      found.info or {})


class CocoCategory(Part):
    """A target."""

    id: Whole
    name: str


class CocoImage(Part):
    """A slice."""

    id: Whole
    slice_index: Whole = 0
    height: Whole | None = None
    width: Whole | None = None


class CocoBox(Part):
    """A box; `bbox` is (x, y, width, height)."""

    image_id: Whole
    category_id: Whole
    bbox: tuple[Finite, Finite, Finite, Finite]
    score: Finite = 1.0
    instance: Whole = 0
    source: BoxSource = BoxSource.USER
    uncertainty: Finite | None = None


class CocoFile(Part):
    """A ``boxes.json``, or the file of another program that marks boxes."""

    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[CocoBox, ...]
    info: dict[str, Any] | None = None


def _box(item: CocoBox, label: str, slice_index: int) -> Box:
    x, y, width, height = item.bbox
    return Box(y, x, y + height, x + width, label=label, score=item.score, slice_index=slice_index,
               instance=item.instance, source=item.source, uncertainty=item.uncertainty)
