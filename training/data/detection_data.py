"""Boxes for the detector, from the masks of the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label

from napari_claps.errors import InputError
from napari_claps.types import Modality
from napari_claps.words.vocabulary import kind_of
from training.data.sampler import CachedImage, ViewBatch

JOIN = 1
"""Specks are one object when this many pixels around each make them touch."""

MIN_AREA = 6
"""Smaller objects, in pixels of the mask, get no box."""

MAX_BOXES = 40
"""Boxes of a target in a view; the largest objects are kept."""

DetectionClass = tuple[Modality, str]
"""Modality and target: what a class text asks for."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of one view: boxes (N, 4), cxcywh as fractions of the view, and the text (N,) each belongs to."""

    boxes: torch.Tensor
    text: torch.Tensor

    def to(self, device: torch.device | str) -> Truth:
        """The same on another device."""
        return Truth(self.boxes.to(device), self.text.to(device))


@dataclass(frozen=True, eq=False)
class DetectionBatch:
    """Views with the boxes of what is in them.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W) in [0, 1].
    classes : tuple of (Modality, str)
        The T modalities and targets that are asked for in some view.
    known : Tensor
        (B, T) bool, whether the target was annotated (present or absent) in the view.
    truths : tuple of Truth
        The objects of each view; their texts count in `classes`.
    """

    images: torch.Tensor
    classes: tuple[DetectionClass, ...]
    known: torch.Tensor
    truths: tuple[Truth, ...]


def has_boxes(target: str) -> bool:
    """Whether a box describes targets of this kind; it does not for trees and bands."""
    return not kind_of(target).is_whole


def compact_images(images: Sequence[CachedImage]) -> list[CachedImage]:
    """The images without their trees and bands; those that have nothing else are left out.

    Raises
    ------
    InputError
        If none is left.
    """
    kept = []
    for image in images:
        targets = tuple(t for t in image.targets if has_boxes(t))
        if targets:
            kept.append(replace(image, targets=targets, masks={t: m for t, m in image.masks.items() if t in targets}))
    if not kept:
        raise InputError("No image has a target that boxes can describe: the detector has nothing to learn from. "
                         "Add data sets with lesions, fluid or the optic disc.")
    return kept


def mask_boxes(mask: np.ndarray) -> np.ndarray:
    """Boxes of the objects of a mask.

    Parameters
    ----------
    mask : ndarray
        (H, W) bool.

    Returns
    -------
    ndarray
        (N, 4) float32, centre x and y, width and height, as fractions of the view; the largest object first.
    """
    if not mask.any():
        return np.zeros((0, 4), np.float32)
    joined = ndimage.binary_dilation(mask, structure=np.ones((3, 3)), iterations=JOIN)
    objects = label(joined, connectivity=2) * mask
    areas = np.bincount(objects.ravel())
    height, width = mask.shape
    boxes = []
    for number, place in enumerate(ndimage.find_objects(objects), start=1):
        if place is not None and areas[number] >= MIN_AREA:
            y, x = place
            boxes.append((areas[number], (x.start + x.stop) / 2 / width, (y.start + y.stop) / 2 / height,
                          (x.stop - x.start) / width, (y.stop - y.start) / height))
    boxes.sort(key=lambda box: -box[0])
    return np.array([box[1:] for box in boxes[:MAX_BOXES]], np.float32).reshape(-1, 4)


def detection_batch(batch: ViewBatch) -> DetectionBatch:
    """Turn the prompted masks of a batch into boxes."""
    classes = tuple(dict.fromkeys((batch.modalities[view], target) for view, target in batch.prompts))
    known = torch.zeros(len(batch.images), len(classes), dtype=torch.bool)
    boxes: list[list[np.ndarray]] = [[] for _ in batch.images]
    texts: list[list[int]] = [[] for _ in batch.images]
    for (view, target), mask in zip(batch.prompts, batch.masks, strict=True):
        text = classes.index((batch.modalities[view], target))
        known[view, text] = True
        found = mask_boxes(mask.cpu().numpy() > 0.5)
        boxes[view].append(found)
        texts[view] += [text] * len(found)
    device = batch.images.device
    truths = tuple(
        Truth(torch.from_numpy(np.concatenate([np.zeros((0, 4), np.float32), *b])).to(device),
              torch.tensor(t, dtype=torch.long, device=device))
        for b, t in zip(boxes, texts, strict=True)
    )
    return DetectionBatch(batch.images, classes, known.to(device), truths)
