"""Annotated images of ``train`` that a bundle has not learnt from: the held-out part, or a fold of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from napari_claps.types import Modality
from training.data.patients import patient_of
from training.data.records import Record, first_of_each, read_mask, read_rgb, segmentation_records
from training.data.sampler import CachedImage, synthetic_images
from training.data.selection import fold_of

SYNTHETIC = "synthetic"
"""Name of the synthetic B-scans among the data sets, as in the weights of a configuration."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An annotated image in memory.

    Parameters
    ----------
    modality : Modality
    image : ndarray
        (y, x, 3) uint8.
    masks : mapping of str to ndarray
        (y, x) bool of each target that is present.
    targets : tuple of str
        All that were annotated, present or not.
    field_of_view : ndarray or None
        (y, x) bool.
    patient : str
        Of `patient_of`.
    """

    modality: Modality
    image: np.ndarray
    masks: dict[str, np.ndarray]
    targets: tuple[str, ...]
    field_of_view: np.ndarray | None
    patient: str


def load(record: Record) -> Sample:
    """Read an image with its masks."""
    image = read_rgb(record.image)
    shape = image.shape[:2]
    masks = {t: m for t, p in record.masks.items() if (m := read_mask(p, shape)).any()}
    fov = read_mask(record.field_of_view, shape) if record.field_of_view else None
    return Sample(record.modality, image, masks, record.targets, fov, patient_of(record.dataset, record.stem))


def from_synthetic(number: int, item: CachedImage) -> Sample:
    """A synthetic B-scan in the same form."""
    masks = {t: m > 127 for t, m in item.masks.items()}
    return Sample(item.modality, item.image, masks, ("retina", "rpe_bm_complex"), None, f"{SYNTHETIC}/{number}")


def held_out_images(datasets: Sequence[str] = (), limit: int = 1000, fold: str = "") -> Iterator[Sample]:
    """Read the held-out part of ``train`` or a `fold` of it, at most `limit` images of each data set."""
    records = segmentation_records("train", held_out=None if fold else True, datasets=tuple(datasets))
    if fold:
        mine = set(fold_of(records, fold))
        records = [r for r in records if r.image in mine]
    name = f"fold {fold}" if fold else "held-out images"
    for record in tqdm(first_of_each(records, limit), desc=name, mininterval=10):
        yield load(record)


def held_out_samples(datasets: Sequence[str], limit: int, fold: str) -> Iterator[Sample]:
    """Read the held-out images and the synthetic B-scans, which count as a data set of their own."""
    real = [d for d in datasets if d != SYNTHETIC]
    if real or not datasets:
        yield from held_out_images(real, limit, fold)
    if SYNTHETIC in datasets or not datasets:
        yield from (from_synthetic(i, item) for i, item in enumerate(synthetic_images(12, seed=999)))
