"""The files of one result, filled slice by slice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from napari_claps.measurement import Measurer, best_scores
from napari_claps.results.coco import coco_detections
from napari_claps.results.mask_writer import MaskWriter
from napari_claps.results.overlay import Overlay
from napari_claps.results.uncertainty import UncertaintyWriter
from napari_claps.settings import Settings
from napari_claps.trust.anatomy import Violation, can_check, find_violations, write_violations
from napari_claps.types import Box, ModalityGuess, Prompt, RetinalImage, SliceResult

FILES = ("masks.ome.tif", "boxes.json", "measurements.csv", "overlay.png", "provenance.json")
"""Names of the files in every result folder."""

PROMPT_CHECK = ("prompt-check.png", "prompt-check.csv")


def expected_files(settings: Settings, *, check_prompts: bool = False) -> tuple[str, ...]:
    """Names of the files that a complete result has; some volumes and targets have more."""
    return FILES + UncertaintyWriter.files(settings) + (PROMPT_CHECK if check_prompts else ())


class ResultFiles:
    """Collects the results of one image in little memory and writes them in the end.

    Parameters
    ----------
    image : RetinalImage
    prompts : sequence of Prompt
    modality : ModalityGuess
    slices : sequence of int
        Slices that will come.
    settings : Settings, optional
        Uncertainty and coverage add files.
    model, version, notice : str
        Of the bundle, for table and picture.
    linked : bool
        Whether a number is the same object in all slices.

    Examples
    --------
    >>> with atomic_path(folder) as partial:  # doctest: +SKIP
    ...     for result in results:
    ...         files.add(result)
    ...     table = files.write(partial, provenance)
    """

    def __init__(self, image: RetinalImage, prompts: Sequence[Prompt], modality: ModalityGuess,
                 slices: Sequence[int], *, settings: Settings | None = None, model: str, version: str,
                 notice: str = "", linked: bool = False) -> None:
        self._image = image
        self._labels = [p.label for p in prompts]
        self._slices = list(slices)
        self._masks = MaskWriter(image, self._labels)
        self._measurer = Measurer(image, model=model, version=version, linked=linked)
        self._overlay = Overlay(image, prompts, modality, slices, caption=f"{model} {version}", notice=notice)
        self._boxes: list[Box] = []
        self._uncertainty = UncertaintyWriter(image, self._labels, settings or Settings())
        self._checked = can_check(self._labels, image)
        self._violations: list[Violation] = []

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Violations of anatomy so far."""
        return tuple(self._violations)

    def add(self, result: SliceResult) -> None:
        """Take the result of one slice."""
        self._masks.add(result.index, result.masks)
        self._measurer.add(result.index, result.masks, presence=result.presence, scores=best_scores(result))
        self._overlay.add(result)
        self._boxes += result.boxes
        self._uncertainty.add(result)
        if self._checked:
            self._violations += find_violations(result, self._image)

    def write(self, folder: Path, provenance: dict[str, Any]) -> pd.DataFrame:
        """Write all files into a new `folder`, and return the table of measurements."""
        folder.mkdir(parents=True)
        self._masks.write(folder / "masks.ome.tif")
        _write_json(folder / "boxes.json", coco_detections(self._image, self._labels, self._boxes, self._slices))
        table = self._measurer.table()
        table.to_csv(folder / "measurements.csv", index=False, float_format="%.6g")
        self._overlay.picture(table).save(folder / "overlay.png")
        self._uncertainty.write(folder)
        if self._checked:
            write_violations(self._violations, folder / "anatomy.csv")
        _write_json(folder / "provenance.json", {**provenance, "masks_sha256": self._masks.sha256})
        return table


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
