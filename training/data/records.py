"""The real images: which ones, read once, and the part of ``train`` that is held out.

The folder is named by the environment variable ``CLAPS_DATA``.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from napari_claps.errors import InputError
from napari_claps.types import Modality

HELD_OUT_PERCENT = 15

_HEALTHY = {"hrf": "_h"}
"""Data sets whose authors say which eyes are healthy, and how the names of these images end (Budai et al. 2013,
doi 10.1155/2013/154860)."""

_ABSENT_IN_HEALTHY = ("microaneurysm", "haemorrhage", "hard_exudate", "soft_exudate")
"""What a healthy eye does not have, among the targets of fundus photographs: annotated as absent by that word."""


def data_root() -> Path:
    """Folder of the images.

    Raises
    ------
    InputError
        If ``CLAPS_DATA`` is not set, or its folder has no ``segmentation.csv``.
    """
    value = os.environ.get("CLAPS_DATA")
    if not value:
        raise InputError("CLAPS_DATA is not set; it must name the folder with segmentation.csv and pretraining.csv.")
    root = Path(value)
    if not (root / "segmentation.csv").is_file():
        raise InputError(f"CLAPS_DATA = {root}: there is no segmentation.csv in it.")
    return root


def is_held_out(dataset: str, stem: str) -> bool:
    """Whether an image of ``train`` is kept for choosing thresholds and checkpoints, by a hash of its name."""
    return name_hash(dataset, stem) % 100 < HELD_OUT_PERCENT


def name_hash(dataset: str, stem: str) -> int:
    """A number that depends on the name of an image alone, in no order."""
    return int.from_bytes(hashlib.sha256(f"{dataset}/{stem}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Record:
    """One annotated image: `targets` lists what was annotated, `masks` the files of what is present."""

    dataset: str
    modality: Modality
    image: Path
    targets: tuple[str, ...]
    masks: dict[str, Path]
    field_of_view: Path | None = None

    @property
    def stem(self) -> str:
        return self.image.stem


def segmentation_records(split: str, *, held_out: bool | None = None, datasets: tuple[str, ...] = ()) -> list[Record]:
    """List the images with masks.

    Parameters
    ----------
    split : {"train", "val"}
    held_out : bool or None
        Restrict ``train`` to the held-out part (True) or to the rest (False).
    datasets : tuple of str
        Restrict to these; empty means all.

    Raises
    ------
    InputError
        If nothing is left, or a listed image is missing.
    """
    root = data_root()
    records = []
    with (root / "segmentation.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            image = root / row["image"]
            dataset = row["dataset"]
            if row["split"] != split or (datasets and dataset not in datasets):
                continue
            if held_out is not None and is_held_out(dataset, image.stem) != held_out:
                continue
            if not image.is_file():
                raise InputError(f"{root / 'segmentation.csv'}: the image {row['image']} is missing.")
            listed = row["targets"].split()
            masks = {t: root / "segmentation" / dataset / "masks" / t / f"{image.stem}.png" for t in listed}
            fov = masks.pop("fov", None)
            if dataset in _HEALTHY and image.stem.endswith(_HEALTHY[dataset]):
                listed += [t for t in _ABSENT_IN_HEALTHY if t not in listed]
            records.append(Record(
                dataset, Modality(row["modality"]), image, tuple(t for t in listed if t != "fov"),
                {t: p for t, p in masks.items() if p.is_file()}, fov if fov and fov.is_file() else None,
            ))
    if not records:
        raise InputError(f"{root}: no image of split {split!r}" + (f" in {', '.join(datasets)}." if datasets else "."))
    return records


def first_of_each(records: Iterable[Record], limit: int | None) -> list[Record]:
    """At most `limit` images of each data set, for a quick look."""
    seen: dict[str, int] = {}
    chosen = []
    for record in records:
        seen[record.dataset] = seen.get(record.dataset, 0) + 1
        if limit is None or seen[record.dataset] <= limit:
            chosen.append(record)
    return chosen


def read_rgb(path: Path) -> np.ndarray:
    """Return (y, x, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return (y, x) bool.

    Raises
    ------
    InputError
        If its size differs from `shape`.
    """
    with Image.open(path) as image:
        mask = np.asarray(image.convert("L")) > 127
    if mask.shape != shape:
        raise InputError(f"{path}: the mask has {mask.shape} pixels, its image {shape}.")
    return mask


def read_truth(record: Record, target: str, shape: tuple[int, int]) -> np.ndarray:
    """The true mask (y, x) of an annotated target, empty where it is absent."""
    return read_mask(record.masks[target], shape) if target in record.masks else np.zeros(shape, bool)
