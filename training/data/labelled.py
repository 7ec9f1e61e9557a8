"""Images with image-level labels: those listed for pre-training, and those of ``train`` with masks."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from napari_claps.types import Modality
from training.data.captions import Labels, parse_labels
from training.data.patients import patient_of
from training.data.records import data_root, is_held_out, segmentation_records


@dataclass(frozen=True)
class LabelledImage:
    """An image with what is known of it.

    Parameters
    ----------
    path : Path
    dataset : str
    cell : str
        Its labels as ``pretraining.csv`` writes them; empty for an image with masks.
    labels : Labels
    patient : str
        Shared by all images of a patient, as far as their names tell.
    held_out : bool
        Whether it is kept for choosing and reporting.
    """

    path: Path
    dataset: str
    cell: str
    labels: Labels
    patient: str
    held_out: bool

    @classmethod
    def of(cls, path: Path, dataset: str, cell: str, labels: Labels) -> LabelledImage:
        """Take patient and part from the names of the file and its data set."""
        return cls(path, dataset, cell, labels, patient_of(dataset, path.stem), is_held_out(dataset, path.stem))


def labelled_images() -> list[LabelledImage]:
    """All images of both lists whose modality is known here; none of ``val`` is among them.

    Raises
    ------
    InputError
        If there is no image with masks.
    """
    root = data_root()
    with (root / "pretraining.csv").open(newline="", encoding="utf-8") as file:
        listed = [LabelledImage.of(root / row["image"], row["dataset"], row["labels"],
                                   parse_labels(row["modality"], row["labels"]))
                  for row in csv.DictReader(file) if row["modality"] in set(Modality)]
    for record in segmentation_records("train"):
        present = frozenset(record.masks)
        labels = Labels(record.modality, present, frozenset(record.targets) - present)
        listed.append(LabelledImage.of(record.image, record.dataset, "", labels))
    return listed
