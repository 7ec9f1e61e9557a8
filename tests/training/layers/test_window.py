"""The window that follows the retina, and what is said where there is none."""

from __future__ import annotations

import numpy as np

from training.layers.boundaries import BOUNDARIES
from training.layers.decode import Surfaces
from training.layers.window import ROWS, find_window, inside, middle_line

X = np.arange(200)


def curved(thickness: float) -> Surfaces:
    """Surfaces at even distances, around a curve."""
    middle = 150 + 30 * (X / 200 - 0.5) ** 2 + 20 * X / 200
    heights = middle + np.linspace(-0.5, 0.5, len(BOUNDARIES))[:, None] * thickness
    return Surfaces(heights.astype(np.float32), np.ones_like(heights), np.ones_like(heights))


def test_a_flattened_retina_lies_level_in_the_middle_of_the_window() -> None:
    first = curved(90)
    window = find_window(first)
    image = np.zeros((300, 200), np.uint8)
    image[np.rint(first.heights[4]).astype(int), X] = 255
    assert window.step == 1 and np.abs(window.line - first.heights[4]).max() < 1.5
    assert np.abs(window.cut(image).argmax(0) - ROWS / 2).max() <= 2


def test_a_thick_retina_is_scaled_and_comes_back_in_its_own_rows() -> None:
    first = curved(240)
    window = find_window(first)
    assert abs(window.step - 2) < 0.01
    flat = Surfaces((first.heights - window.line) / window.step + ROWS / 2, first.std, first.visible)
    back = window.back(flat)
    assert np.allclose(back.heights, first.heights, atol=1e-3) and np.allclose(back.std, 2, atol=0.02)


def test_without_a_retina_there_is_no_window() -> None:
    nothing = np.full((len(BOUNDARIES), 200), np.nan)
    assert middle_line(nothing) is None and find_window(Surfaces(nothing, nothing, nothing)) is None


def test_nothing_is_known_outside_the_picture() -> None:
    heights = inside(curved(90), 180).heights
    assert np.isnan(heights[-1]).all() and np.isfinite(heights[0]).all()
