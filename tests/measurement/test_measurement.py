"""Numbers from masks: units, scales, absence, coverage, objects in volumes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_claps.measurement import COLUMNS, Measurer, measure
from napari_claps.types import Box, Modality, ModalityGuess, Prompt, RetinalImage, SliceResult, SpacingSource

SLOW_MACHINE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SPACING = (0.12, 0.004, 0.011)


def volume_image(shape=(4, 20, 30), spacing=SPACING):
    source = SpacingSource.FILE if spacing else SpacingSource.NONE
    return RetinalImage(np.zeros(shape, np.uint8), spacing=spacing, spacing_source=source, laterality="L",
                        source="/home/somebody/clinic/eye.vol")


def results_of(volume, label="drusen", boxes=()):
    guess = ModalityGuess(Modality.OCT, 0.9, "detected")
    prompts = (Prompt(label, "x", label),)
    return [SliceResult(i, guess, prompts, {label: plane.astype(np.uint16)},
                        tuple(b for b in boxes if b.slice_index == i), {label: 0.25 * i}, {})
            for i, plane in enumerate(volume)]


def value(table, measure_name, unit, index=None, structure="drusen"):
    rows = table[(table["measure"] == measure_name) & (table["unit"] == unit) & (table["structure"] == structure)]
    rows = rows[rows["slice"].isna()] if index is None else rows[rows["slice"] == index]
    assert len(rows) == 1, rows
    return rows["value"].item()


def test_every_number_in_mm_says_where_its_scale_is_from():
    masks = np.zeros((4, 20, 30), int)
    masks[1, 5:9, 10:20] = 1
    image = RetinalImage(np.zeros((4, 20, 30), np.uint8), plane_spacing=SPACING[1:])
    table = measure(results_of(masks), image)
    assert value(table, "area", "mm2", 1) == pytest.approx(40 * 0.004 * 0.011)
    assert set(table["scale_source"]) == {"file"} and not {"mm3", "nL"} & set(table["unit"])


def test_volume_in_all_units():
    masks = np.zeros((4, 20, 30), int)
    masks[1:3, 5:9, 10:20] = 1
    table = measure(results_of(masks), volume_image(), model="m", version="1")
    assert list(table.columns) == list(COLUMNS)
    assert value(table, "area", "px", 1) == 40
    assert value(table, "area", "mm2", 1) == pytest.approx(40 * 0.004 * 0.011)
    assert value(table, "volume", "voxel") == 80
    assert value(table, "volume", "mm3") == pytest.approx(80 * 0.12 * 0.004 * 0.011)
    assert value(table, "volume", "nL") == pytest.approx(1000 * value(table, "volume", "mm3"))
    assert value(table, "slices_present", "n") == 2
    assert value(table, "count", "n") == 1
    assert value(table, "presence", "1") == 0.75
    assert set(table["image"]) == {"eye.vol"}, "only the name of the file, never its folder"
    assert set(table["eye"]) == {"L"}
    assert set(table["scale_source"]) == {"file"}
    assert set(table["model"]) == {"m"}


def test_no_scale_no_millimetres():
    masks = np.ones((2, 20, 30), int)
    table = measure(results_of(masks), volume_image((2, 20, 30), None))
    assert set(table["unit"]) == {"n", "px", "voxel", "1"}
    assert set(table["scale_source"]) == {"none"}


def test_absent_is_said_and_counted_as_zero():
    table = measure(results_of(np.zeros((3, 20, 30), int)), volume_image((3, 20, 30)))
    assert set(table["status"]) == {"absent"}
    assert value(table, "count", "n", 2) == 0
    assert value(table, "volume", "mm3") == 0


def test_slices_that_were_not_looked_at_leave_the_volume_unknown():
    masks = np.ones((4, 20, 30), int)
    results = results_of(masks)
    table = measure([results[0], results[2]], volume_image())
    assert sorted(table["slice"].dropna().unique()) == [0, 2]
    assert math.isnan(value(table, "volume", "mm3"))
    assert math.isnan(value(table, "count", "n"))
    assert value(table, "slices_present", "n") == 2
    assert set(table.loc[table["slice"].isna(), "coverage"]) == {0.5}


def test_plane_image_has_rows_of_the_whole_only():
    image = RetinalImage(np.zeros((20, 30, 3), np.uint8), rgb=True, spacing=(0.01, 0.02),
                         spacing_source=SpacingSource.USER)
    mask = np.zeros((20, 30), int)
    mask[2:4, 2:4], mask[10:12, 10:15] = 1, 7
    boxes = (Box(2, 2, 4, 4, "drusen", 0.6), Box(10, 10, 12, 15, "drusen", 0.9))
    table = measure(results_of([mask], boxes=boxes), image)
    assert table["slice"].isna().all()
    assert value(table, "count", "n") == 2
    assert value(table, "area", "px") == 14
    assert value(table, "area", "mm2") == pytest.approx(14 * 0.01 * 0.02)
    assert value(table, "max_score", "1") == 0.9
    assert set(table["coverage"]) == {1.0}


def test_masks_without_scores_have_no_score_rows():
    measurer = Measurer(volume_image())
    for i in range(4):
        measurer.add(i, {"drusen": np.ones((20, 30), np.uint16)})
    assert not {"presence", "max_score"} & set(measurer.table()["measure"])
    pd.testing.assert_frame_equal(measurer.table(), measurer.table())


@SLOW_MACHINE
@given(seed=st.integers(0, 10_000), density=st.floats(0.02, 0.5))
def test_objects_of_a_volume_are_its_connected_components(seed, density):
    rng = np.random.default_rng(seed)
    binary = rng.random((5, 9, 9)) < density
    in_plane = ndimage.generate_binary_structure(2, 2)
    masks = np.stack([ndimage.label(plane, in_plane)[0] for plane in binary])
    structure = np.zeros((3, 3, 3), bool)
    structure[1], structure[0, 1, 1], structure[2, 1, 1] = True, True, True
    table = measure(results_of(masks), volume_image((5, 9, 9)))
    assert value(table, "count", "n") == ndimage.label(binary, structure)[1]


@SLOW_MACHINE
@given(factor=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_area_grows_with_the_square_and_volume_with_the_cube_of_the_scale(factor, seed):
    masks = np.random.default_rng(seed).integers(0, 3, (2, 8, 8))
    one = measure(results_of(masks), volume_image((2, 8, 8)))
    other = measure(results_of(masks), volume_image((2, 8, 8), tuple(s * factor for s in SPACING)))
    assert value(other, "area", "mm2", 0) == pytest.approx(value(one, "area", "mm2", 0) * factor**2)
    assert value(other, "volume", "nL") == pytest.approx(value(one, "volume", "nL") * factor**3)
    assert value(other, "volume", "voxel") == value(one, "volume", "voxel")


def test_axes_are_not_mixed_up():
    """A B-scan shows y and x: its area must not contain the distance of the B-scans."""
    masks = np.ones((2, 8, 8), int)
    table = measure(results_of(masks), volume_image((2, 8, 8), (5.0, 0.25, 0.5)))
    assert value(table, "area", "mm2", 0) == 64 * 0.25 * 0.5
    assert value(table, "volume", "mm3") == 128 * 5.0 * 0.25 * 0.5


def test_linked_objects_are_counted_by_their_numbers():
    """Two pockets that touch from slice to slice, and one that is bridged over a gap."""
    masks = np.zeros((4, 20, 30), int)
    masks[0, 2:6, 2:8], masks[1, 4:8, 2:8] = 1, 2  # overlap, but were told apart
    masks[0, 12:15, 20:25], masks[2, 12:15, 20:25] = 3, 3  # missing in slice 1
    assert value(measure(results_of(masks), volume_image(), linked=True), "count", "n") == 3
    assert value(measure(results_of(masks), volume_image()), "count", "n") == 3  # 1 + 2, 3 and 3 again
    masks[1, 4:8, 2:8] = 0
    assert value(measure(results_of(masks), volume_image(), linked=True), "count", "n") == 2
    assert value(measure(results_of(masks), volume_image()), "count", "n") == 3
    assert value(measure(results_of(masks[:1]), volume_image((1, 20, 30)), linked=True), "count", "n", 0) == 2


@SLOW_MACHINE
@given(seed=st.integers(0, 10_000))
def test_linking_changes_the_number_of_objects_and_nothing_else(seed):
    masks = np.random.default_rng(seed).integers(0, 4, (3, 8, 8))
    tables = [measure(results_of(masks), volume_image((3, 8, 8)), linked=linked) for linked in (False, True)]
    counts = [t["slice"].isna() & (t["measure"] == "count") for t in tables]
    assert tables[1][counts[1]]["value"].tolist() == [len(np.unique(masks[masks > 0]))]
    pd.testing.assert_frame_equal(*(t[~c] for t, c in zip(tables, counts, strict=True)))
