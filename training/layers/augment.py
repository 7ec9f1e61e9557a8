"""Views to learn from: a B-scan bent, tilted, cut and shown as another device would, with the heights moved along."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d

from training.layers.boundaries import NOT_VISIBLE
from training.layers.scans import LayerScan, standardise
from training.layers.window import middle_line


def draw_view(rng: np.random.Generator, scan: LayerScan, shape: tuple[int, int], *,
              flat: bool = False, zoom: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a view of a scan.

    Parameters
    ----------
    rng : numpy.random.Generator
    scan : LayerScan
    shape : tuple of int
        Rows and A-scans of the view.
    flat : bool
        Whether the view follows the retina as `training.layers.window` makes it do, about as exactly.
    zoom : float
        Rows and A-scans of the scan in one of the view, for a network that looks from afar.

    Returns
    -------
    image : ndarray
        (y, x) float32, standardised.
    heights : ndarray
        (boundary, x) float32 in rows of the view; `NOT_VISIBLE` outside it, behind shadows and outside the scan.
    """
    rows, columns = shape
    height, width = scan.image.shape
    image, heights = scan.image, scan.heights
    if rng.random() < 0.5:
        image, heights = image[:, ::-1], heights[:, ::-1]
    step_x = float(np.exp(rng.normal(0.0, 0.18)))
    step_y = float(np.exp(rng.normal(0.0, 0.14)))
    if rng.random() < 0.15:  # exports with other proportions
        step_y *= rng.uniform(0.7, 1.6)
    step_x, step_y = zoom * step_x, zoom * step_y
    spare = width - columns * step_x
    x = rng.uniform(min(0, spare) - 10, max(0, spare) + 10) + step_x * np.arange(columns)
    inside = (x >= 0) & (x <= width - 1)
    clipped = np.clip(x, 0, width - 1)
    at, part = np.floor(clipped).astype(int), clipped - np.floor(clipped)
    right = np.minimum(at + 1, width - 1)
    moved = (1 - part) * heights[:, at] + part * heights[:, right]
    u = np.linspace(-1, 1, columns)
    line, bend = _flat(rng, u, moved, inside, height) if flat else _bent(rng, u, moved, inside, height, rows * step_y)
    bend = bend / zoom  # drawn in rows of the scan
    y = line + step_y * (np.arange(rows)[:, None] - rows / 2 + bend)
    if step_x > 1.15 or rng.random() < 0.3:
        image = uniform_filter1d(image.astype(np.float32), max(2, round(zoom)), axis=1)
    if zoom > 1.5:
        image = uniform_filter1d(image.astype(np.float32), round(zoom), axis=0)
    picture = map_coordinates(image.astype(np.float32), [y, np.broadcast_to(clipped, y.shape)], order=1, cval=0.0)
    picture[:, ~inside] = 0
    moved = (moved - line) / step_y + rows / 2 - bend
    moved[:, ~inside] = NOT_VISIBLE
    lost = (moved < -0.5) | (moved > rows - 0.5)
    moved[lost & ~np.isnan(moved)] = NOT_VISIBLE
    picture, moved = _shadows(rng, picture, moved)
    if flat and rng.random() < 0.12:
        picture, moved = _cut(rng, picture, moved)
    if rng.random() < 0.03:  # upside down: no layers in this order
        picture, moved = picture[::-1], np.full_like(moved, NOT_VISIBLE)
    return standardise(np.clip(look(rng, picture), 0, 255)), moved.astype(np.float32)


def _bent(rng: np.random.Generator, u: np.ndarray, heights: np.ndarray, inside: np.ndarray, height: int,
          reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Row of the scan in the middle of the view, the same for all columns, and a tilt and bend of the view (x,)."""
    bend = rng.normal(0, 22) * u + rng.normal(0, 14) * (u**2 - 0.33) + rng.normal(0, 2.5) * np.sin(
        rng.uniform(1, 7) * u + rng.uniform(0, 6.3))
    if rng.random() < 0.12:  # myopic eyes, and scans of a head that is not straight
        bend += rng.choice([-1, 1]) * rng.uniform(40, 110) * u
    seen = heights[:, inside]
    seen = seen[np.isfinite(seen)]
    middle = float(seen.mean()) if seen.size else height / 2
    # One in eight lets the retina leave the picture.
    return np.full(u.shape, middle + rng.uniform(-1, 1) * (0.34 if rng.random() < 0.88 else 0.7) * reach), bend


def _flat(rng: np.random.Generator, u: np.ndarray, heights: np.ndarray, inside: np.ndarray,
          height: int) -> tuple[np.ndarray, np.ndarray]:
    """Row of the scan (x,) in the middle of the view that follows the retina, and what it is off by."""
    line = middle_line(np.where(inside, heights, np.nan))
    if line is None:
        line = np.full(u.shape, height / 2)
    wild = 3 if rng.random() < 0.12 else 1  # where the first look went astray
    return line, wild * (rng.normal(0, 7) + rng.normal(0, 6) * u + rng.normal(0, 5) * (u**2 - 0.33))


def _cut(rng: np.random.Generator, picture: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The end of the picture, across the retina at a slant."""
    rows, columns = picture.shape
    edge = rng.uniform(0.1, 0.9) * rows + rng.normal(0, 0.25) * (np.arange(columns) - columns / 2)
    upper = rng.random() < 0.5
    y = np.arange(rows)[:, None]
    beyond = heights < edge if upper else heights > edge
    return (np.where(y < edge if upper else y > edge, 0, picture),
            np.where(beyond & ~np.isnan(heights), NOT_VISIBLE, heights))


def look(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The picture (y, x) float32 in [0, 255] as another device or operator would show it."""
    x = picture
    rows, columns = x.shape
    if rng.random() < 0.35:
        x = gaussian_filter(x, (rng.uniform(0.2, 1.3), rng.uniform(0.2, 2.5)))
    x = np.clip(x / 255, 0, 1)
    x = x ** np.exp(rng.normal(-0.1, 0.3))
    if rng.random() < 0.35:  # speckle is multiplicative before the display takes the logarithm
        grain = rng.standard_normal(x.shape, dtype=np.float32)
        grain = gaussian_filter(grain, (rng.uniform(0, 1), rng.uniform(0, 1.2)))
        x = x * np.exp(rng.uniform(0.05, 0.35) * grain / max(float(grain.std()), 1e-6))
    if rng.random() < 0.3:  # noise floor of a weak signal
        noise = np.abs(rng.standard_normal(x.shape, dtype=np.float32))
        if rng.random() < 0.5:
            x = np.maximum(x, rng.uniform(0.02, 0.12) * noise)
        else:
            x = x + rng.uniform(0.01, 0.06) * noise
    if rng.random() < 0.5:  # light that changes along the scan and with depth
        u, v = np.linspace(-1, 1, columns)[None], np.linspace(-1, 1, rows)[:, None]
        x = x * np.exp(rng.normal(0, 0.25) * u + rng.normal(0, 0.2) * v + rng.normal(0, 0.2) * u * u)
    if rng.random() < 0.12:  # margins that registration leaves
        edge = rng.uniform(0, 40) + rng.normal(0, 0.12) * np.arange(columns)
        value = rng.choice([0.0, 1.0])
        x = np.where(np.arange(rows)[:, None] < edge - 25, value, x)
    return 255 * np.clip(rng.uniform(0.75, 1.5) * x, 0, 1)


def _shadows(rng: np.random.Generator, picture: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shadows of vessels, through which layers can still be seen, and at times one that hides what is below it."""
    columns = np.arange(picture.shape[1])
    rows = np.arange(picture.shape[0])[:, None]
    top = np.where(np.isfinite(heights[0]), heights[0], 0)
    for _ in range(rng.poisson(1.2)):
        away = (columns - rng.uniform(0, columns.size)) / rng.uniform(2, 10)
        light = 1 - rng.uniform(0.2, 0.7) * np.exp(-(away**4))
        picture = np.where(rows > top + rng.uniform(3, 15), picture * light, picture)
    if rng.random() < 0.1:
        at, half = rng.uniform(0, columns.size), rng.uniform(6, 45)
        dark = np.abs(columns - at) < half
        ends = rng.uniform(-10, 30)  # from in front of the retina (floaters, lids) or within it
        floor = rng.uniform(0, 12) * np.abs(rng.standard_normal(picture.shape, dtype=np.float32))
        hidden = dark & (rows > top + ends)
        picture = np.where(hidden, np.minimum(picture * 0.04 + floor, 40), picture)
        heights = np.where(dark & (heights > top + ends) & ~np.isnan(heights), NOT_VISIBLE, heights)
    if rng.random() < 0.04:  # a picture of nothing but noise
        picture = rng.uniform(3, 40) * np.abs(rng.standard_normal(picture.shape, dtype=np.float32))
        heights = np.full_like(heights, NOT_VISIBLE)
    return picture, heights
