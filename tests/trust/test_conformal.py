"""Inner and outer masks: nested, and as right as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_claps.inference.decision import Scores, decide
from napari_claps.methods.base import Query
from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.conformal import (
    GRID,
    band,
    band_level,
    controlled,
    false_curve,
    images_needed,
    inner_thresholds,
    missed_curve,
    outer_thresholds,
    why_no_band,
)
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt

PAIR = Pair(Modality.OCT, "drusen", threshold=0.5, presence=0.2, min_area=3, inner={"0.8": 0.7, "0.9": 0.9},
            outer={"0.8": 0.3, "0.9": 0.1, "0.95": 0.05}, n_inner=12, n_outer=15)
planes = arrays(np.float32, (6, 8), elements=st.floats(0, 1, width=32))
QUERY = Query(make_prompt("drusen", Modality.OCT), PAIR)


@given(planes, st.floats(0, 1), st.sampled_from(["0.8", "0.9"]))
def test_inner_mask_and_outer_are_nested(probability: np.ndarray, presence: float, level: str) -> None:
    found = decide(QUERY, Scores(probability, presence, ()), area=1.0, level=level)
    mask = found.mask > 0
    assert found.inner.dtype == found.outer.dtype == bool
    assert not (found.inner & ~mask).any() and not (mask & ~found.outer).any()
    if presence < PAIR.presence:
        assert not found.outer.any()
    else:
        assert (found.outer == (mask | (probability >= PAIR.outer[level]))).all()


@given(planes, planes)
def test_nested_also_when_an_ensemble_made_the_mask(probability: np.ndarray, mean: np.ndarray) -> None:
    scores = Scores(probability, 0.9, ())
    found = decide(QUERY, scores, area=1.0, level="0.9", mean=mean)
    mask = found.mask > 0
    assert not (found.inner & ~mask).any() and not (mask & ~found.outer).any()


@given(planes, arrays(bool, (6, 8)), st.floats(0.05, 0.95))
def test_curves_count_what_the_masks_do(probability: np.ndarray, truth: np.ndarray, threshold: float) -> None:
    mask = probability >= threshold
    if truth.any():
        outer = outer_thresholds(threshold)
        missed = missed_curve(probability, truth, outer)
        assert (np.diff(outer) < 0).all() and (np.diff(missed) <= 0).all()
        k = len(outer) // 2
        pair = Pair(Modality.OCT, "drusen", outer={"0.9": float(outer[k])}, inner={"0.9": 1.0})
        _, wide = band(probability, mask & False, pair, "0.9", absent=False)
        assert missed[k] == pytest.approx(1 - wide[truth].mean())
    inner = inner_thresholds(threshold)
    false = false_curve(probability, mask, truth, inner)
    assert (np.diff(inner) > 0).all() and (np.diff(false) <= 0).all() and false.min() >= 0 and false.max() <= 1
    for k, cut in enumerate(inner):
        sure = mask & (probability >= np.float32(cut))
        if sure.any():
            assert false[k] >= (sure & ~truth).sum() / sure.sum() - 1e-9


def test_the_rule_of_the_paper() -> None:
    losses = np.array([[0.5, 0.2, 0.0]] * 9)
    assert controlled(losses, 0.9) == 2  # (9 x 0 + 1) / 10
    assert controlled(losses, 0.7) == 1  # (9 x 0.2 + 1) / 10 = 0.28
    assert controlled(losses[:8], 0.9) is None  # 1 / 9 is more than 0.1
    assert [images_needed(c) for c in (0.8, 0.9, 0.95, 0.5)] == [4, 9, 19, 1]
    assert controlled(np.zeros((0, 3)), 0.5) is None


def simulate(rng: np.random.Generator, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images of 60 pixels whose networks are differently good, as (probability, truth)."""
    images = []
    for _ in range(n):
        truth = rng.random(60) < rng.uniform(0.1, 0.6)
        truth[0] = True
        skill = rng.uniform(0.5, 4)
        probability = np.where(truth, rng.beta(1 + skill, 1, 60), rng.beta(1, 1 + skill, 60))
        images.append((probability.astype(np.float32), truth))
    return images


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_on_new_images_is_as_promised(coverage: float) -> None:
    """Over many draws of 25 calibration images and a new one, within three standard errors."""
    rng, threshold, repeats = np.random.default_rng(7), 0.5, 800
    outer, inner = outer_thresholds(threshold), inner_thresholds(threshold)
    covered, sure = [], []
    for _ in range(repeats):
        *known, (p, truth) = simulate(rng, 26)
        a = controlled(np.array([missed_curve(q, t, outer) for q, t in known]), coverage)
        covered.append((p[truth] >= outer[a]).mean())
        b = controlled(np.array([false_curve(q, q >= threshold, t, inner) for q, t in known]), coverage)
        if b is not None:
            claimed = p >= inner[b]
            sure.append(truth[claimed].mean() if claimed.any() else 1.0)
    assert np.mean(covered) > coverage - 3 * np.std(covered) / math.sqrt(repeats)
    assert np.mean(sure) > coverage - 3 * np.std(sure) / math.sqrt(len(sure)) and len(sure) > repeats / 2
    assert np.mean(covered) < (1 + coverage) / 2, "not by taking everything"


def test_the_next_higher_level_answers_for_a_coverage_in_between() -> None:
    assert [band_level(PAIR, c) for c in (0.5, 0.8, 0.85, 0.9, 0.92, 0.95)] == ["0.8", "0.8", "0.9", "0.9", None, None]


def test_reasons_why_there_is_no_band() -> None:
    assert why_no_band(None, 0.9) == "free text was not calibrated"
    assert why_no_band(Pair(Modality.OCT, "drusen"), 0.9) == "it was not calibrated"
    few = Pair(Modality.OCT, "drusen", n_inner=5, n_outer=3)
    assert why_no_band(few, 0.9) == "3 calibration images are too few, 9 are needed"
    wide = Pair(Modality.OCT, "drusen", n_inner=50, n_outer=30, inner={"0.8": 0.9}, outer={"0.8": 0.1, "0.9": 0.01})
    assert why_no_band(wide, 0.9) == "no threshold reaches it, at most 0.8"


def test_the_grid_ascends_between_0_and_1() -> None:
    assert (np.diff(GRID) > 0).all() and GRID[0] > 0 and GRID[-1] < 1
