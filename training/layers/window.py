"""A window that follows the retina: where it lies is found first, then it is looked at flattened and at its own scale.

Graph searches flatten a B-scan for the same reason: what tilt, curvature and place in the picture take from a small
network is then left for the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from torch import nn

from training.layers.decode import DEFAULT, Decoding, Surfaces, decode, look

ROWS = 176
"""Rows of a window."""

DEGREE = 8
"""Degree of the curve through the middle of a whole B-scan; views to learn from are half as wide."""

THICKNESS = (60.0, 120.0)
"""Rows from ILM to Bruch's membrane that need no scaling; a thinner or thicker retina is brought to these."""


@dataclass(frozen=True, eq=False)
class Window:
    """`line` (x,) is the row of the picture in the middle of the window, `step` its rows in one row of the window."""

    line: np.ndarray
    step: float

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Picture (`ROWS`, x) float32; black where the window leaves it."""
        x = np.arange(image.shape[1])
        y = self.line + self.step * (np.arange(ROWS)[:, None] - ROWS / 2)
        return map_coordinates(image.astype(np.float32), [y, np.broadcast_to(x, y.shape)], order=1, cval=0.0)

    def back(self, surfaces: Surfaces) -> Surfaces:
        """Surfaces in the window's rows as surfaces in the rows of the picture."""
        heights = self.line + self.step * (surfaces.heights - ROWS / 2)
        return Surfaces(heights.astype(np.float32), self.step * surfaces.std, surfaces.visible)


def middle_line(heights: np.ndarray, *, degree: int = 3) -> np.ndarray | None:
    """Smooth curve (x,) through the middle of the layers, from heights (boundary, x); None where too few are known.

    The outermost boundaries are left out: ILM and Bruch's membrane are what a first look is least sure of. A
    polynomial by least absolute residuals (iteratively reweighted), which ignores a pit or a detachment.
    """
    inner = np.where(np.isfinite(heights), heights, np.nan)[1:-1]
    known = np.isfinite(inner)
    usable = known.sum(0) >= 4
    if usable.sum() < max(16, 0.05 * usable.size):
        return None
    u = np.linspace(-1, 1, heights.shape[1])
    middle = np.where(known, inner, 0).sum(0)[usable] / known.sum(0)[usable]
    if np.ptp(u[usable]) < 0.6:
        degree = 1  # little to hold a curve
    weight = np.ones(middle.size)
    for _ in range(5):
        line = np.polynomial.Polynomial.fit(u[usable], middle, degree, domain=[-1, 1], window=[-1, 1], w=weight)
        weight = 1 / np.sqrt(np.maximum(np.abs(line(u[usable]) - middle), 2))
    # A polynomial runs away where nothing holds it.
    return line(np.clip(u, u[usable].min(), u[usable].max()))


def find_window(first: Surfaces) -> Window | None:
    """Window for a second look, from the surfaces that the first one found; None if there is no retina."""
    line = middle_line(first.heights, degree=DEGREE)
    if line is None:
        return None
    thickness = first.heights[-1] - first.heights[0]
    thickness = thickness[np.isfinite(thickness)]
    step = 1.0
    if thickness.size >= 16:
        typical = float(np.median(thickness))
        step = typical / float(np.clip(typical, *THICKNESS))
    return Window(line, step)


def find_surfaces(locator: nn.Module, network: nn.Module, image: np.ndarray, how: Decoding = DEFAULT, *,
                  mirrored: bool = False) -> Surfaces:
    """Surfaces of a B-scan (y, x) uint8 in its own pixels, by a look at all of it and one at the flattened retina."""
    first = decode(*look(locator, image), image.shape, Decoding(least_visible=0.3, largest_std=np.inf, reach=0))
    window = find_window(first)
    if window is None:
        return no_surfaces(first)
    found = decode(*look(network, window.cut(image), mirrored=mirrored), (ROWS, image.shape[1]), how)
    return inside(window.back(found), image.shape[0])


def no_surfaces(first: Surfaces) -> Surfaces:
    """The answer where a first look found no retina: nothing is known."""
    nothing = np.full_like(first.heights, np.nan)
    return Surfaces(nothing, np.full_like(nothing, np.inf), first.visible)


def inside(surfaces: Surfaces, rows: int) -> Surfaces:
    """Surfaces without what lies outside a picture of so many rows: nobody can see it."""
    out = (surfaces.heights < -0.5) | (surfaces.heights > rows - 0.5)
    return Surfaces(np.where(out, np.nan, surfaces.heights), surfaces.std, surfaces.visible)
