"""Pictures of the worst masks, with and without the photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from napari_claps.types import Modality
from training.data.records import Record
from training.report.failures import (
    AGREED,
    CAPTION,
    CELL,
    FAINT,
    FALSE,
    MISSED,
    Failure,
    draw_failure,
    draw_failure_maps,
)

TRUTH = np.zeros((60, 100), bool)
TRUTH[20:40, 30:50] = True
FOUND = np.zeros((60, 100), bool)
FOUND[20:40, 40:60] = True
SKY = (17, 34, 201)
"""A colour that only the photograph has."""


def failure(dataset: str, dice: float, folder: Path) -> Failure:
    path = folder / f"{dataset}-PATIENT.png"
    Image.new("RGB", TRUTH.shape[::-1], SKY).save(path)
    return Failure(dice, Record(dataset, Modality.OCT, path, ("drusen",), {}), FOUND, TRUTH)


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}


def test_maps_show_no_pixel_of_a_photograph(tmp_path) -> None:
    worst = {"drusen": [failure("kermany", 0.5, tmp_path), failure("kermany", 0.1, tmp_path)],
             "optic_disc": [failure("idrid", 0.3, tmp_path), failure("drishti_gs", 0.2, tmp_path)],
             "vessel": [failure("drive", 0.4, tmp_path)]}
    sheet = draw_failure_maps(worst)
    assert sheet.size == (2 * CELL + 4, 2 * (CELL + CAPTION)), "two rows: vessels may not be shown"
    cell = np.asarray(sheet)[CAPTION:CAPTION + CELL, :CELL]
    assert {AGREED, MISSED, FALSE} <= colours(Image.fromarray(cell)) and SKY not in colours(sheet)
    right = np.asarray(sheet)[CELL + 2 * CAPTION:, CELL + 4:]
    assert colours(Image.fromarray(right)) == {FAINT}, "a disc of which only one failure may be shown"


def test_there_is_no_sheet_of_nothing(tmp_path) -> None:
    assert draw_failure_maps({}) is None
    assert draw_failure_maps({"vessel": [failure("drive", 0.4, tmp_path)]}) is None


def test_those_who_have_the_data_see_the_photograph_beside_it(tmp_path) -> None:
    picture = draw_failure(failure("kermany", 0.5, tmp_path), "drusen")
    assert SKY in colours(picture) and picture.width > 2 * TRUTH.shape[1] / 3
