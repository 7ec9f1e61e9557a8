"""Result folders as ``claps segment`` writes them, without a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from napari_claps.measurement import Measurer
from napari_claps.results import MaskWriter, coco_detections
from napari_claps.types import Box, BoxSource, RetinalImage, SpacingSource
from tests.vendor_fixtures import glyph

SPACING = (0.12, 0.0039, 0.0113)
NAMES = ("retina", "drusen", "intraretinal_fluid", "dark µ/spots")
"""The third was looked for and not found; the last is free text that no file may be named after."""

BOXES = (Box(5.0, 8.0, 35.0, 24.0, "drusen", 0.75, 1, 2), Box(1, 2, 9, 9, "dark µ/spots", 1.0, 2, 0, BoxSource.USER))


def f_masks(n: int = 4, height: int = 40, width: int = 33) -> dict[str, np.ndarray]:
    """(n, height, width) uint16 for each of `NAMES`: letters F that tell every axis and direction apart."""
    letter = glyph(height, width) > 100
    masks = {name: np.zeros((n, height, width), np.uint16) for name in NAMES}
    masks["retina"][:] = 1  # overlaps all others
    for z in range(1, n):
        masks["drusen"][z][letter] = z + 1
    masks["drusen"][1, :3, -2:] = 65535
    masks["dark µ/spots"][2, 1:9, 2:9] = 1
    return masks


def write_result(
    folder: Path, *, masks: dict[str, np.ndarray] | None = None, spacing: tuple[float, ...] | None = SPACING,
    source: Path | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write ``masks.ome.tif``, ``boxes.json``, ``measurements.csv`` and ``provenance.json``; return the masks."""
    masks = f_masks() if masks is None else masks
    folder.mkdir(parents=True)
    shape = next(iter(masks.values())).shape
    origin = SpacingSource.FILE if spacing else SpacingSource.NONE
    image = RetinalImage(np.zeros(shape, np.uint8), spacing=spacing, spacing_source=origin, source="eye.dcm")
    writer, measurer = MaskWriter(image, list(masks)), Measurer(image, model="tiny", version="1")
    for index in range(image.n_slices):
        planes = {name: mask[index] if image.is_volume else mask for name, mask in masks.items()}
        writer.add(index, planes)
        measurer.add(index, planes)
    writer.write(folder / "masks.ome.tif")
    measurer.table().to_csv(folder / "measurements.csv", index=False)
    boxes = [box for box in BOXES if box.label in masks and box.slice_index < image.n_slices]
    detections = coco_detections(image, list(masks), boxes, range(image.n_slices))
    (folder / "boxes.json").write_text(json.dumps(detections), encoding="utf-8")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest() if source else "0" * 64
    (folder / "provenance.json").write_text(json.dumps({
        "input": {"name": "eye.dcm", "sha256": sha256, "shape": list(shape)},
        "spacing": {"mm": spacing and list(spacing), "axes": "zyx" if image.is_volume else "yx", "source": str(origin)},
        "bundle": {"name": "claps-tiny", "version": "0.1"},
        "request": {"input_sha256": sha256, "targets": "all", "modality": "auto", "method": "claps",
                    "score_threshold": 0.5, "seed": 3},
    }), encoding="utf-8")  # fmt: skip
    return masks
