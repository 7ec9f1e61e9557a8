"""Arteries and veins along the tree: whole pieces are one or the other, and go on across branchings and crossings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_claps.inference.artery_vein import TREE, compared_with, vote_along_vessels, vote_in_fields

ROWS, COLUMNS = np.mgrid[:80, :100]


def line(start: tuple[int, int], end: tuple[int, int], width: float = 2.0) -> np.ndarray:
    """(80, 100) bool, a straight vessel."""
    (y0, x0), (y1, x1) = start, end
    along = ((ROWS - y0) * (y1 - y0) + (COLUMNS - x0) * (x1 - x0)) / ((y1 - y0) ** 2 + (x1 - x0) ** 2)
    along = along.clip(0, 1)
    return (ROWS - y0 - along * (y1 - y0)) ** 2 + (COLUMNS - x0 - along * (x1 - x0)) ** 2 <= width**2


def noisy(artery: np.ndarray, vein: np.ndarray, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of both: 0.7 and 0.4 on vessels, the wrong way round in a share of the pixels, in blocks."""
    rng = np.random.default_rng(0)
    flipped = np.kron(rng.random((20, 25)) < wrong, np.ones((4, 4), bool))
    is_artery = np.where(artery & ~vein, ~flipped, flipped)
    tree = artery | vein
    return np.where(tree, np.where(is_artery, 0.7, 0.4), 0.02), np.where(tree, np.where(is_artery, 0.4, 0.7), 0.02)


def test_a_vessel_is_one_thing_from_end_to_end() -> None:
    artery, vein = line((10, 5), (20, 95)), line((60, 5), (70, 95))
    before = noisy(artery, vein, wrong=0.3)
    assert 0.5 < (before[0] > 0.5)[artery].mean() < 0.9
    found = vote_along_vessels(*before)
    np.testing.assert_array_equal(found[0] > 0.35, artery)
    np.testing.assert_array_equal(found[1] > 0.35, vein)


def test_vessels_that_cross_stay_what_they_are() -> None:
    """What lies beyond a crossing, too short to know by itself, follows what it goes on from."""
    artery, vein = line((40, 5), (40, 95)), line((5, 70), (75, 60))
    a, v = noisy(artery, vein, wrong=0.0)
    beyond = artery & (COLUMNS > 72)
    a[beyond], v[beyond] = v[beyond], 0.45  # the wrong way round, a little
    found = vote_along_vessels(a, v)
    away = abs(ROWS - 40) > 6
    assert (found[0] > found[1])[artery & (abs(COLUMNS - 65) > 8)].all()
    assert (found[1] > found[0])[vein & away].all()


def test_nothing_happens_off_the_tree() -> None:
    a, v = np.full((20, 20), TREE - 0.05), np.full((20, 20), 0.1)
    assert all(np.array_equal(found, given) for found, given in zip(vote_along_vessels(a, v), (a, v), strict=True))


@given(arrays(np.float32, (2, 12, 17), elements=st.floats(0, 1, width=32)))
def test_any_maps_stay_probabilities(maps: np.ndarray) -> None:
    """On the tree the sum of both is the higher of both; the swapped question has the swapped answer."""
    artery, vein = vote_along_vessels(*maps)
    higher = maps.max(0)
    changed = (artery != maps[0]) | (vein != maps[1])
    assert ((artery >= 0) & (artery <= 1) & (vein >= 0) & (vein <= 1)).all()
    assert (higher[changed] >= TREE).all()
    np.testing.assert_allclose((artery + vein)[changed], higher[changed], atol=1e-5)
    np.testing.assert_allclose(vote_along_vessels(maps[1], maps[0])[::-1], (artery, vein), atol=1e-4)


def test_wordings_are_paired_in_order_and_other_targets_stay() -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 5, 12, 17, generator=rng)
    voted = maps.clone()
    vote_in_fields(voted, ["artery", "vessel", "vein", "artery", "vein"])
    assert torch.equal(voted[:, 1], maps[:, 1])
    for s in range(2):
        for a, v in ((0, 2), (3, 4)):
            expected = vote_along_vessels(maps[s, a].numpy(), maps[s, v].numpy())
            np.testing.assert_array_equal(voted[s, [a, v]].numpy(), expected)
    alone = maps.clone()
    vote_in_fields(alone, ["artery", "vessel", None, None, "optic_disc"])
    assert torch.equal(alone, maps)


@pytest.mark.parametrize(("asked", "beside"), [(["artery"], ["vein"]), (["vessel", "vein"], ["artery"]),
                                               (["artery", "vein"], []), (["drusen", None], [])])
def test_one_is_never_looked_for_alone(asked: list[str | None], beside: list[str]) -> None:
    assert compared_with(asked) == beside
