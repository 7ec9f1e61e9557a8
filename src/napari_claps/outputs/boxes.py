"""Boxes as COCO detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_claps.types import Box, RetinalImage


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
