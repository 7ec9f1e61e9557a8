"""Metrics against known shapes, properties, and independent implementations."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, dice, jaccard

from napari_claps.errors import InputError
from napari_claps.evaluate import (
    ImageScore,
    SliceBoxes,
    average_precision,
    bootstrap_interval,
    object_boxes,
    score_masks,
    score_table,
    summarise,
)

masks = arrays(bool, (12, 15))
some_masks = masks.filter(np.any)
quick = settings(max_examples=60, deadline=None)


def rectangle(shape: tuple[int, ...], *limits: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*limit) for limit in limits)] = True
    return mask


def image_score(dice: float | None, *, found: bool = True, presence: float = 0.5, boxes: tuple = ()) -> ImageScore:
    """Score of a 1 x 200 mask with this Dice, or of an absent target."""
    truth, predicted = np.zeros((2, 1, 200), bool)
    if dice is not None:
        truth[0, :100] = True
    if found:
        shift = 100 - round(100 * (dice or 0))
        predicted[0, shift : shift + 100] = True
    return ImageScore("set", "image", "drusen", score_masks(predicted, truth), presence, boxes)


# Overlap


@quick
@given(masks, some_masks)
def test_overlap_agrees_with_scipy_and_sets(predicted, truth):
    score = score_masks(predicted, truth)
    p, t = predicted.ravel(), truth.ravel()
    assert score.dice == pytest.approx(1 - dice(t, p))
    assert score.iou == pytest.approx(1 - jaccard(t, p))
    pixels_p, pixels_t = set(np.flatnonzero(p)), set(np.flatnonzero(t))
    assert score.precision == pytest.approx(len(pixels_p & pixels_t) / max(len(pixels_p), 1))
    assert score.recall == pytest.approx(len(pixels_p & pixels_t) / len(pixels_t))


@quick
@given(some_masks)
def test_identity_is_perfect(mask):
    score = score_masks(mask, mask, centreline=True)
    assert (score.dice, score.iou, score.precision, score.recall, score.cldice) == (1, 1, 1, 1, 1)
    assert score.hd95 == 0 and score.size_error == 0


@quick
@given(some_masks, some_masks)
def test_swapping_the_masks_swaps_precision_and_recall(a, b):
    one, other = score_masks(a, b, centreline=True), score_masks(b, a, centreline=True)
    assert (one.dice, one.iou) == (other.dice, other.iou)
    assert one.hd95 == pytest.approx(other.hd95)
    assert one.cldice == pytest.approx(other.cldice)
    assert (one.precision, one.recall) == (other.recall, other.precision)


@quick
@given(some_masks, some_masks, st.integers(0, 7), st.integers(0, 7))
def test_moving_both_masks_changes_nothing(a, b, dy, dx):
    def moved(mask):
        return np.pad(mask, ((1 + dy, 8 - dy), (1 + dx, 8 - dx)))

    still, shifted = (score_masks(f(a), f(b)) for f in (lambda m: np.pad(m, ((1, 8), (1, 8))), moved))
    assert (shifted.dice, shifted.hd95) == (still.dice, pytest.approx(still.hd95))


def test_known_rectangles():
    score = score_masks(rectangle((40, 40), (10, 20), (10, 20)), rectangle((40, 40), (10, 20), (15, 35)))
    assert score.dice == pytest.approx(2 * 50 / 300)
    assert (score.precision, score.recall) == (0.5, 0.25)
    assert (score.truth_size, score.predicted_size, score.size_error) == (200, 100, -0.5)
    assert (score.length_unit, score.size_unit) == ("px", "px")


def test_only_the_field_of_view_counts():
    truth, predicted = rectangle((20, 20), (0, 10), (0, 20)), rectangle((20, 20), (0, 20), (0, 20))
    field = rectangle((20, 20), (0, 10), (0, 20))
    assert score_masks(predicted, truth).precision == 0.5
    assert score_masks(predicted, truth, field=field).dice == 1
    assert not score_masks(predicted, truth, field=~field).present


def test_instance_numbers_and_255_are_masks():
    truth = rectangle((9, 9), (2, 5), (2, 5))
    assert score_masks(truth.astype(np.uint16) * 7, truth.astype(np.uint8) * 255).dice == 1


# Distance, centreline and size


def test_hd95_of_a_moved_square_is_the_step_in_mm():
    a, b = rectangle((60, 60), (10, 30), (10, 30)), rectangle((60, 60), (14, 34), (10, 30))
    assert score_masks(a, b).hd95 == 4
    score = score_masks(a, b, spacing=(0.5, 0.01))
    assert score.hd95 == pytest.approx(2)
    assert (score.length_unit, score.size_unit) == ("mm", "mm2")
    assert score.truth_size == pytest.approx(400 * 0.5 * 0.01)
    # The same step along x costs the x spacing: the axes are not mixed up.
    assert score_masks(a.T, b.T, spacing=(0.5, 0.01)).hd95 == pytest.approx(0.04)


@quick
@given(some_masks, some_masks)
def test_hd95_agrees_with_all_pairs(a, b):
    def surface(mask):
        inside = np.pad(mask, 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        return np.argwhere(mask & ~core) * (2.0, 0.5)

    distance = cdist(surface(a), surface(b))
    expected = max(np.percentile(distance.min(axis), 95) for axis in (0, 1))
    assert score_masks(a, b, spacing=(2.0, 0.5)).hd95 == pytest.approx(expected)


def test_volume_is_measured_in_mm3():
    truth = rectangle((6, 20, 20), (1, 3), (5, 15), (5, 15))
    predicted = rectangle((6, 20, 20), (1, 5), (5, 15), (5, 15))
    score = score_masks(predicted, truth, spacing=(0.1, 0.004, 0.01))
    assert score.truth_size == pytest.approx(200 * 0.1 * 0.004 * 0.01)
    assert (score.size_error, score.size_unit) == (1, "mm3")
    assert score.hd95 <= 0.2 + 1e-9


def test_cldice_sees_a_broken_vessel_better_than_a_thin_one():
    truth = rectangle((60, 200), (25, 35), (10, 190))
    thin = rectangle((60, 200), (28, 32), (10, 190))
    broken = truth & ~rectangle((60, 200), (0, 60), (60, 140))
    assert score_masks(thin, truth, centreline=True).cldice > 0.97
    assert score_masks(broken, truth, centreline=True).cldice < 0.85
    assert score_masks(thin, truth).dice < score_masks(broken, truth).dice
    assert np.isnan(score_masks(thin, truth).cldice)


# Empty masks


def test_absent_and_nothing_found_is_a_true_absence():
    empty = np.zeros((9, 9), bool)
    score = score_masks(empty, empty)
    assert not score.present and not score.found
    assert np.isnan([score.dice, score.iou, score.precision, score.recall, score.hd95, score.size_error]).all()


def test_absent_but_found_is_a_false_positive():
    score = score_masks(np.ones((9, 9)), np.zeros((9, 9)), spacing=(0.1, 0.1))
    assert score.found and not score.present and np.isnan(score.dice)
    assert score.predicted_size == pytest.approx(0.81)


def test_present_but_not_found_costs_the_diagonal():
    score = score_masks(np.zeros((30, 40)), rectangle((30, 40), (2, 9), (2, 9)), centreline=True)
    assert (score.dice, score.precision, score.recall, score.cldice, score.size_error) == (0, 0, 0, 0, -1)
    assert score.hd95 == 50


@pytest.mark.parametrize(
    ("truth", "options", "text"),
    [
        (np.zeros((8, 9)), {}, r"\(8, 8\) but the true mask \(8, 9\)"),
        (np.zeros((8, 8)), {"field": np.ones((4, 4))}, r"field of view \(4, 4\)"),
        (np.zeros((8, 8)), {"spacing": (1.0, 1.0, 1.0)}, "must be 2 positive numbers in mm"),
        (np.zeros((8, 8)), {"spacing": (1.0, 0.0)}, "must be 2 positive numbers in mm"),
    ],
)
def test_misfits_are_explained(truth, options, text):
    with pytest.raises(InputError, match=text):
        score_masks(np.zeros((8, 8)), truth, **options)


# Boxes


def test_boxes_of_objects_are_8_connected_and_end_exclusive():
    mask = (
        rectangle((20, 30), (2, 5), (3, 9))
        | rectangle((20, 30), (5, 7), (9, 12))
        | rectangle((20, 30), (15, 20), (20, 30))
    )
    assert object_boxes(mask).tolist() == [[2, 3, 7, 12], [15, 20, 20, 30]]
    assert object_boxes(np.zeros((5, 5))).shape == (0, 4)


NONE = np.zeros((0, 4))
BOX = np.array([[10, 20, 30, 60]])


def test_perfect_boxes_have_average_precision_1():
    other = SliceBoxes(BOX + 100, [0.2], BOX + 100)
    assert average_precision([SliceBoxes(BOX, [0.9], BOX), other]) == pytest.approx(1)


@pytest.mark.parametrize(("width", "expected"), [(20, 1), (19, 0)])
def test_a_hit_overlaps_by_half(width, expected):
    found = BOX.copy()
    found[0, 3] = 20 + width  # of 40 columns
    assert average_precision([SliceBoxes(found, [0.9], BOX)]) == pytest.approx(expected)
    assert average_precision([SliceBoxes(found, [0.9], BOX)], iou=0.4) == pytest.approx(1)


def test_a_second_box_on_the_same_object_is_false():
    good_last = SliceBoxes(np.repeat(BOX, 2, axis=0), [0.9, 0.8], np.concatenate([BOX, BOX + 100]))
    # One of two objects is found with full precision up to recall 0.5 (51 of COCO's 101 steps).
    assert average_precision([good_last]) == pytest.approx(51 / 101)


def test_false_boxes_in_images_without_the_target_count():
    false, right = SliceBoxes(BOX, [0.9], NONE), SliceBoxes(BOX, [0.8], BOX)
    assert average_precision([false, right]) == pytest.approx(0.5)
    assert average_precision([SliceBoxes(BOX, [0.1], NONE), right]) == pytest.approx(1)


def test_more_than_a_hundred_boxes_are_all_counted():
    rows = np.arange(150) * 20
    truth = np.stack([rows, rows, rows + 10, rows + 10], axis=1)
    assert average_precision([SliceBoxes(truth, np.linspace(0.1, 0.9, 150), truth)]) == pytest.approx(1)


def test_nothing_proposed_or_nothing_true_is_no_crash(capsys):
    assert np.isnan(average_precision([]))
    assert np.isnan(average_precision([SliceBoxes(BOX, [0.5], NONE)]))
    assert average_precision([SliceBoxes(NONE, [], BOX)]) == 0
    assert average_precision([SliceBoxes(NONE, [], BOX), SliceBoxes(BOX, [0.5], NONE)]) == 0
    assert capsys.readouterr().out == ""


@quick
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=1, max_size=25, unique_by=lambda x: x[1]))
def test_average_precision_agrees_with_its_definition(ranked):
    """The mean over 101 recalls of the best precision at that recall or more."""
    slices = [SliceBoxes(BOX, [score / 1000], BOX if hit else NONE) for hit, score in ranked]
    slices.append(SliceBoxes(NONE, [], BOX))
    hits = np.array([hit for hit, _ in sorted(ranked, key=lambda x: -x[1])])
    precision, recall = hits.cumsum() / np.arange(1, len(hits) + 1), hits.cumsum() / (hits.sum() + 1)
    # A recall that is one of the 101 may count as just below it: 3 / 10 is not 30 * 0.01 in floating point.
    least, most = (np.mean([max(precision[recall >= r + rounding], default=0) for r in np.linspace(0, 1, 101)])
                   for rounding in (1e-12, -1e-12))
    assert least - 1e-9 <= average_precision(slices) <= most + 1e-9


# Summary


def test_means_run_over_images_where_the_target_is_present():
    scores = [
        image_score(0.5),
        image_score(0.9),
        image_score(0.0, found=False),
        image_score(None),
        image_score(None, found=False),
    ]
    (row,) = summarise(scores).to_dict("records")
    assert (row["n_present"], row["n_absent"]) == (3, 2)
    assert row["dice"] == pytest.approx((0.5 + 0.9 + 0) / 3)
    assert row["sensitivity"] == pytest.approx(2 / 3)
    assert (row["specificity"], row["false_positive_rate"]) == (0.5, 0.5)
    assert row["dice_low"] <= row["dice"] <= row["dice_high"]
    assert (row["size_bias"], row["size_error"]) == (pytest.approx(-1 / 3), pytest.approx(1 / 3))
    assert np.isnan(row["ap50"])


@quick
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_auroc_agrees_with_counting_pairs(there, not_there):
    scores = [image_score(0.5, presence=p / 5) for p in there] + [image_score(None, presence=p / 5) for p in not_there]
    pairs = [(a > b) + 0.5 * (a == b) for a in there for b in not_there]
    assert summarise(scores).auroc[0] == pytest.approx(np.mean(pairs))


def test_auroc_ranks_the_presence_scores():
    scores = [
        image_score(0.5, presence=0.9),
        image_score(0.5, presence=0.3),
        image_score(None, presence=0.4),
        image_score(None, presence=0.1),
    ]
    assert summarise(scores).auroc[0] == pytest.approx(3 / 4)
    assert np.isnan(summarise(scores[:2]).auroc[0])
    assert np.isnan(summarise([*scores, image_score(None, presence=np.nan)]).auroc[0])


def test_absent_everywhere_has_rates_but_no_overlap():
    (row,) = summarise([image_score(None), image_score(None, found=False)]).to_dict("records")
    assert (row["n_present"], row["n_absent"], row["false_positive_rate"]) == (0, 2, 0.5)
    assert np.isnan(row["dice"]) and np.isnan(row["sensitivity"])


def test_pixels_and_millimetres_are_not_averaged():
    mask = rectangle((9, 9), (2, 5), (2, 5))
    scores = [ImageScore("set", str(s), "drusen", score_masks(mask, mask, spacing=s)) for s in (None, (1.0, 1.0))]
    row = summarise(scores).iloc[0]
    assert np.isnan(row.hd95) and row.length_unit == "" and row.dice == 1


def test_boxes_are_pooled_over_the_images_of_a_data_set():
    one, missed = SliceBoxes(BOX, [0.9], BOX), SliceBoxes(NONE, [], BOX)
    summary = summarise([image_score(0.5, boxes=(one,)), image_score(0.1, boxes=(missed,))])
    assert summary.ap50[0] == pytest.approx(51 / 101)


def test_table_has_a_row_per_image_and_keeps_its_columns_when_empty():
    table = score_table([image_score(0.5), image_score(None)])
    assert table.dice.round(3).tolist()[0] == 0.5 and table.present.tolist() == [True, False]
    assert list(score_table([]).columns) == list(table.columns)
    assert summarise([]).empty


def test_interval_is_repeatable_and_covers():
    rng = np.random.default_rng(1)
    assert bootstrap_interval([0.1, 0.5, 0.9]) == bootstrap_interval([0.1, 0.5, 0.9])
    assert bootstrap_interval([0.4, 0.4]) == (pytest.approx(0.4), pytest.approx(0.4))
    assert np.isnan(bootstrap_interval([0.4])).all()
    covered = [low <= 0.5 <= high for low, high in (bootstrap_interval(rng.normal(0.5, 0.1, 40)) for _ in range(150))]
    assert 0.88 <= np.mean(covered) <= 1
    values = rng.normal(0.5, 0.1, 400)
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_comparing_files_needs_no_torch():
    code = "import sys, napari_claps.evaluate; sys.exit('torch' in sys.modules or 'napari' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
