"""Annotated B-scans as pairs of a picture and the heights of its boundaries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from napari_claps.errors import InputError
from training.data.records import read_truth, segmentation_records
from training.layers.boundaries import BOUNDARIES, LAYERS, heights_from_masks

DATASET = "oct_layers"
"""The data set whose B-scans have masks of all layers."""

WRONG = {"h_20": ("opl_onl",)}
"""Boundaries that are drawn in another place in one scan than in all others: its OPL reaches to the ellipsoid zone."""


@dataclass(frozen=True, eq=False)
class LayerScan:
    """A B-scan `image` (y, x) uint8, `heights` (boundary, x) float32 in rows, and the source it comes from.

    `files` are what it was read from; none if it is synthetic.
    """

    name: str
    source: str
    image: np.ndarray
    heights: np.ndarray
    files: tuple[Path, ...] = ()


def read_layers(split: str) -> list[LayerScan]:
    """All B-scans of `DATASET` in a split, sorted by name.

    `source` is their number of A-scans, which is all that is known of devices: 747 columns (442 or 542 rows), 833 and
    939 columns (436 rows).

    Raises
    ------
    InputError
        If there is none.
    """
    scans = []
    for record in sorted(segmentation_records(split, datasets=(DATASET,)), key=lambda r: r.image):
        image = read_grey(record.image)
        masks = {name: read_truth(record, name, image.shape) for name in ("retina", *LAYERS)}
        files = (record.image, *(path for name, path in record.masks.items() if name in masks))
        scans.append(LayerScan(record.stem, str(image.shape[1]), image, heights_from_masks(masks), files))
    return scans


def read_grey(path: Path) -> np.ndarray:
    """Picture (y, x) uint8.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}).") from error


def without_wrong(scan: LayerScan) -> LayerScan:
    """The scan to learn from: boundaries of `WRONG` are unknown in it."""
    if scan.name not in WRONG:
        return scan
    heights = scan.heights.copy()
    for name in WRONG[scan.name]:
        heights[BOUNDARIES.index(name)] = np.nan
    return replace(scan, heights=heights)


def standardise(image: np.ndarray) -> np.ndarray:
    """Picture (y, x) as float32 whose background is about 0 and whose brightest tissue is about 1.

    Margins that a device fills with black or white are left out of the statistics.
    """
    x = image.astype(np.float32)
    seen = x[::3, ::3]
    inside = seen[(seen > 0) & (seen < 255)]
    if inside.size < 0.05 * seen.size:
        inside = seen.ravel()
    low, high = np.percentile(inside, (35, 99.3))
    return np.clip((x - np.float32(low)) / np.float32(max(high - low, 4.0)), -1, 1.6)
