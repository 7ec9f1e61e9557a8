"""The constants of measurement, seen from both sides: units, and from when something counts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from napari_claps.measurement import Measurer, measure
from napari_claps.types import Box, Modality, ModalityGuess, Prompt, RetinalImage, SliceResult, SpacingSource


def table_of(masks: np.ndarray, *, spacing: tuple[float, ...] | None = (0.1, 0.1, 0.1), slices: list[int] | None = None,
             presence: tuple[float, ...] | None = None, scores: tuple[float, ...] | None = None) -> pd.DataFrame:
    image = RetinalImage(np.zeros(masks.shape, np.uint8), spacing=spacing,
                         spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE)
    guess, prompts = ModalityGuess(Modality.OCT, None, "file"), (Prompt("drusen", "drusen", "drusen"),)
    results = [SliceResult(k, guess, prompts, {"drusen": masks[k].astype(np.uint16)},
                           () if scores is None else (Box(0, 0, 1, 1, "drusen", scores[k], k, 1),),
                           {} if presence is None else {"drusen": presence[k]}, {})
               for k in (range(len(masks)) if slices is None else slices)]
    return measure(results, image)


def value(table: pd.DataFrame, measure_name: str, unit: str, index: int | None = None) -> float:
    rows = table[(table["measure"] == measure_name) & (table["unit"] == unit)]
    return rows[rows["slice"].isna() if index is None else rows["slice"] == index]["value"].item()


def test_a_cubic_millimetre_is_a_thousand_nanolitres() -> None:
    masks = np.ones((10, 10, 10))
    table = table_of(masks)
    assert value(table, "volume", "voxel") == 1000
    assert value(table, "volume", "mm3") == pytest.approx(1) and value(table, "volume", "nL") == pytest.approx(1000)


def test_a_single_pixel_is_present() -> None:
    masks = np.zeros((2, 10, 10))
    masks[1, 9, 9] = 1
    table = table_of(masks, presence=(0.1, 0.9), scores=(0.2, 0.8))
    assert table[table["slice"] == 0]["status"].unique().tolist() == ["absent"]
    assert table[table["slice"] == 1]["status"].unique().tolist() == ["present"]
    assert table[table["slice"].isna()]["status"].unique().tolist() == ["present"]
    assert value(table, "count", "n") == 1 and [value(table, "count", "n", k) for k in range(2)] == [0, 1]
    assert value(table, "slices_present", "n") == 1


@pytest.mark.parametrize(("slices", "known"), [([0, 1, 2], True), ([0, 1], False), ([1], False)])
def test_a_volume_is_known_when_every_slice_was_looked_at(slices: list[int], known: bool) -> None:
    table = table_of(np.ones((3, 10, 10)), slices=slices)
    assert math.isnan(value(table, "volume", "mm3")) != known and math.isnan(value(table, "count", "n")) != known
    assert table[table["slice"].isna()]["coverage"].unique().tolist() == pytest.approx([len(slices) / 3])


@pytest.mark.parametrize(("column", "count"), [(12, 1), (13, 2)])
def test_one_common_pixel_in_the_next_slice_makes_one_object(column: int, count: int) -> None:
    masks = np.zeros((2, 20, 20))
    masks[0, 5:10, 8:13], masks[1, 9:14, column:column + 5] = 1, 1
    assert value(table_of(masks), "count", "n") == count


@pytest.mark.parametrize(("second", "count"), [(1, 1), (2, 2)])
def test_only_the_next_slice_makes_one_object(second: int, count: int) -> None:
    masks = np.zeros((3, 20, 20))
    masks[0, 5:10, 5:10] = masks[second, 5:10, 5:10] = 1
    assert value(table_of(masks), "count", "n") == count


def test_objects_of_the_first_slice_are_not_joined_to_something_before_it() -> None:
    masks = np.zeros((2, 20, 20))
    masks[0, 2:5, 2:5], masks[0, 10:15, 10:15], masks[1, 2:5, 2:5], masks[1, 10:15, 10:15] = 1, 2, 5, 3
    assert value(table_of(masks), "count", "n") == 2
    masks[1, 5:10, 3:14] = 3
    masks[1, 3:5, 3:5] = 3
    assert value(table_of(masks), "count", "n") == 1, "5 lies on 1, 3 on 1 and 2"


def test_nothing_in_all_slices_is_a_count_of_zero() -> None:
    assert value(table_of(np.zeros((2, 10, 10))), "count", "n") == 0


def test_without_another_word_numbers_are_those_of_a_slice() -> None:
    """1 in the first slice and 2 in the next are one object, if they overlap."""
    measurer = Measurer(RetinalImage(np.zeros((2, 10, 10), np.uint8)))
    for k in range(2):
        measurer.add(k, {"drusen": np.full((10, 10), k + 1, np.uint16)})
    assert value(measurer.table(), "count", "n") == 1


def test_the_highest_presence_and_score_are_those_of_the_volume() -> None:
    table = table_of(np.ones((3, 10, 10)), presence=(0.2, 0.9, 0.4), scores=(0.3, 0.5, 0.7))
    assert (value(table, "presence", "1"), value(table, "max_score", "1")) == (0.9, 0.7)
    assert [value(table, "presence", "1", k) for k in range(3)] == [0.2, 0.9, 0.4]
    zero = table_of(np.ones((2, 10, 10)), presence=(0.2, 0.0), scores=(0.3, 0.0))
    assert (value(zero, "presence", "1"), value(zero, "max_score", "1")) == (0.2, 0.3)
