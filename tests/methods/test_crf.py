"""The dense conditional random field: labels follow the colours of the image, and any map gives a probability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from napari_claps.methods.medclip import crf
from napari_claps.methods.medclip.crf import refine
from napari_claps.methods.medclip.regions import Cut, RegionRule, find_regions


def disc_image(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a dark, slightly noisy ground (y, x, 3), and its mask."""
    y, x = np.mgrid[:shape[0], :shape[1]]
    mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius ** 2
    image = np.where(mask[..., None], [0.9, 0.8, 0.5], [0.5, 0.2, 0.1])
    return np.clip(image + np.random.default_rng(0).normal(0, 0.01, image.shape), 0, 1), mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_blob_in_most_of_the_disc_grows_to_the_disc() -> None:
    image, mask = disc_image((60, 80), (30, 40), 14)
    y, x = np.mgrid[:60, :80]
    hint = expit((11 - np.hypot(y - 33, x - 42)) / 3)  # too small, and beside the middle
    found = refine(hint, image)
    assert found.shape == (60, 80) and found.dtype == np.float32
    assert dice(found >= 0.5, mask) > 0.93 > 0.85 > dice(hint >= 0.5, mask)


def test_without_edges_in_the_image_little_changes() -> None:
    y, x = np.mgrid[:40, :40]
    hint = expit((9 - np.hypot(y - 20, x - 20)) / 0.5)
    found = refine(hint, np.full((40, 40, 3), 0.5))
    assert dice(found >= 0.5, hint >= 0.5) > 0.9


def test_one_step_is_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean field with a Potts model, pair by pair (Krähenbühl and Koltun 2011, algorithm 1)."""
    monkeypatch.setattr(crf, "STEPS", 1)
    rng = np.random.default_rng(1)
    probability, image = rng.uniform(0.1, 0.9, (4, 5)), rng.random((4, 5, 3))
    places = [(i, j) for i in range(4) for j in range(5)]

    def kernel(width: float, colour: float) -> np.ndarray:
        values = np.array([[0.0 if a == b else np.exp(
            -sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / 25 / 2 / width ** 2
            - ((image[a] - image[b]) ** 2).sum() / 2 / colour ** 2) for b in places] for a in places])
        sums = values.sum(1) + 1e-6
        return values / np.sqrt(np.outer(sums, sums))

    pairs = crf.WEIGHTS[0] * kernel(crf.NEAR, crf.COLOUR) + crf.WEIGHTS[1] * kernel(crf.SMOOTH, np.inf)
    q = probability.ravel()
    yes, no = (np.exp(np.log(p) + pairs @ p) for p in (q, 1 - q))
    np.testing.assert_allclose(refine(probability, image).ravel(), yes / (yes + no), rtol=1e-3, atol=1e-4)
    assert not np.allclose(logit(q), logit(yes / (yes + no)), atol=0.05)  # the neighbours say something


@given(seed=st.integers(0, 200), height=st.integers(1, 90), width=st.integers(1, 90))
def test_any_map_gives_probabilities(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    found = refine(rng.random((height, width)).round(1), rng.random((2 * height, 3 * width, 3)))
    assert found.shape == (height, width) and (found >= 0).all() and (found <= 1).all()


def test_regions_by_the_field_follow_the_image() -> None:
    image, mask = disc_image((120, 160), (60, 80), 28)
    y, x = np.mgrid[:60, :80]  # the map is coarser than the image
    saliency = np.exp(-((y - 31) ** 2 + (x - 42) ** 2) / 120)
    rule = RegionRule(Cut.CRF)
    (region,) = find_regions(saliency, rule, image)
    (plain,) = find_regions(saliency, replace(rule, cut=Cut.KMEANS))
    truth = mask[::2, ::2]
    assert dice(region.mask, truth) > 0.9 > dice(plain.mask, truth) + 0.05
    with pytest.raises(ValueError, match="needs the image"):
        find_regions(saliency, rule)
