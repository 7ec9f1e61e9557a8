"""The files of one result, filled slice by slice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_claps.results.coco import coco_detections
from napari_claps.results.findings import Findings
from napari_claps.results.mask_writer import MaskWriter
from napari_claps.results.overlay import Overlay
from napari_claps.results.prompt_check import write_prompt_check
from napari_claps.results.tables import write_doubts, write_violations
from napari_claps.results.uncertainty import UncertaintyWriter
from napari_claps.settings import Settings
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
        Of the bundle, for the picture.

    Examples
    --------
    >>> with atomic_path(folder) as partial:  # doctest: +SKIP
    ...     for _ in study.run(files.add):
    ...         pass
    ...     files.write(partial, study.finish())
    """

    def __init__(self, image: RetinalImage, prompts: Sequence[Prompt], modality: ModalityGuess,
                 slices: Sequence[int], *, settings: Settings | None = None, model: str, version: str,
                 notice: str = "") -> None:
        self._image = image
        self._labels = [p.label for p in prompts]
        self._slices = list(slices)
        self._masks = MaskWriter(image, self._labels)
        self._overlay = Overlay(image, prompts, modality, slices, caption=f"{model} {version}", notice=notice)
        self._boxes: list[Box] = []
        self._uncertainty = UncertaintyWriter(image, self._labels, settings or Settings())

    def add(self, result: SliceResult) -> None:
        """Take a slice with its final numbers."""
        self._masks.add(result.index, result.masks)
        self._overlay.add(result)
        self._boxes += result.boxes
        self._uncertainty.add(result)

    def write(self, folder: Path, findings: Findings) -> None:
        """Write all files into a new `folder`."""
        folder.mkdir(parents=True)
        self._masks.write(folder / "masks.ome.tif")
        _write_json(folder / "boxes.json", coco_detections(self._image, self._labels, self._boxes, self._slices))
        table = findings.measurements
        table.to_csv(folder / "measurements.csv", index=False, float_format="%.6g")
        self._overlay.picture(table).save(folder / "overlay.png")
        self._uncertainty.write(folder)
        if findings.anatomy_checked:
            write_violations(findings.violations, folder / "anatomy.csv")
        if findings.doubts is not None:
            write_doubts(findings.doubts, folder / "doubts.csv")
        if findings.prompt_check is not None:
            write_prompt_check(findings.prompt_check, folder)
        _write_json(folder / "provenance.json", findings.provenance)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
