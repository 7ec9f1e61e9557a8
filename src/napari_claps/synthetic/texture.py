"""From the geometry of a B-scan to its picture: reflectivity, shadows, speckle, noise, display."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

# Display value of each layer on a log scale, vitreous first (see SURFACES for what separates them), then fluid.
_REFLECTIVITY = np.array([0.0, 0.64, 0.48, 0.51, 0.36, 0.49, 0.30, 0.38, 0.35, 0.80, 0.60, 0.02, 0.93, 0.5, 0.70, 0.57,
                          0.50, 0.03], np.float32)
FLUID = 17
"""Layer number of a cyst."""
_SUB_RETINA, _RPE, _SUB_RPE, _CHOROID = 11, 12, 13, 15


@dataclass(frozen=True)
class Style:
    """How a device and its operator make a picture look.

    Parameters
    ----------
    reflectivity : ndarray
        (18,) display value of the layers.
    speckle : float
        Contrast of the speckle in the log domain.
    grain : tuple of float
        Smoothing of the speckle along y and x, 0 (pixel noise) to 0.33.
    floor : float
        Display value of the noise floor.
    dynamic : float
        Dynamic range in nepers; less is a flatter picture.
    gain, gamma, black : float
        Display transform.
    decay : float
        Loss of display value per mm of choroid.
    wedge : float
        Slope of the white border of a registered scan, 0 for none.
    signal : float
        Strength of the signal; less makes the tissue darker, not the noise.
    blur : float
        Smoothing of the finished picture, 0 to 0.33.
    """

    reflectivity: np.ndarray
    speckle: float
    grain: tuple[float, float]
    floor: float
    dynamic: float
    gain: float
    gamma: float
    black: float
    decay: float
    signal: float
    wedge: float = 0.0
    blur: float = 0.0


def random_style(rng: np.random.Generator, *, wild: bool = True) -> Style:
    """A device style; `wild` draws from a wide range, otherwise a good scan of a common device."""
    if not wild:
        return Style(_REFLECTIVITY, 1.5, (0.25, 0.33), 0.19, 5.5, 0.95, 1.3, 0.0, 1.1, 1.0, blur=0.12)
    return Style(
        reflectivity=np.clip(_REFLECTIVITY + rng.normal(0, 0.03, _REFLECTIVITY.size), 0, 1).astype(np.float32)
        * (_REFLECTIVITY > 0.05),
        speckle=rng.uniform(0.6, 2.0),
        grain=(rng.uniform(0.05, 0.33), rng.uniform(0.1, 0.33)),
        floor=rng.uniform(0.02, 0.27),
        dynamic=rng.uniform(4.0, 7.5),
        gain=rng.uniform(0.82, 1.15),
        gamma=float(np.exp(rng.normal(0.22, 0.22))),
        black=rng.uniform(-0.03, 0.08),
        decay=rng.uniform(0.5, 1.8),
        signal=rng.uniform(0.8, 1.05),
        wedge=rng.normal(0, 0.06) if rng.random() < 0.25 else 0.0,
        blur=rng.uniform(0, 0.25),
    )


def smooth3(image: np.ndarray, along_y: float, along_x: float) -> np.ndarray:
    """Filter with (a, 1 - 2a, a) along y and x; much cheaper than a Gaussian."""
    out = image * (1 - 2 * along_y)
    out[1:] += along_y * image[:-1]
    out[:-1] += along_y * image[1:]
    out[0] += along_y * image[0]
    out[-1] += along_y * image[-1]
    image = out
    out = image * (1 - 2 * along_x)
    out[:, 1:] += along_x * image[:, :-1]
    out[:, :-1] += along_x * image[:, 1:]
    out[:, 0] += along_x * image[:, 0]
    out[:, -1] += along_x * image[:, -1]
    return out


def cloud(rng: np.random.Generator, shape: tuple[int, int], size_y: float, size_x: float) -> np.ndarray:
    """Smooth unit-variance texture with features of `size_y` x `size_x` pixels."""
    h, w = shape
    coarse = rng.standard_normal((max(2, round(h / size_y)) + 1, max(2, round(w / size_x)) + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)) * 1.5


def layer_map(surfaces: np.ndarray, height: int) -> np.ndarray:
    """Number of the layer of each pixel, (y, x) uint8, from surfaces (k, x) in pixels."""
    y = np.arange(height, dtype=np.float32)[:, None]
    out = np.zeros((height, surfaces.shape[1]), np.uint8)
    for s in surfaces.astype(np.float32):
        out += y >= s
    return out


def render(rng: np.random.Generator, style: Style, layers: np.ndarray, bm: np.ndarray, *, material: np.ndarray,
           bright_gap: np.ndarray, lift: np.ndarray, shadow: np.ndarray, dots: np.ndarray,
           pixel_um: tuple[float, float]) -> np.ndarray:
    """Picture (y, x) uint8 of a B-scan.

    `layers` is the layer map; per A-scan are given: `bm` (depth of Bruch's membrane, px), `material` (brightness under
    the pigment epithelium), `bright_gap` (brightness of subretinal material, 0 for fluid), `lift` (height of the
    pigment epithelium, um), `shadow` in [0, 1]. `dots` is (n, 4): y, x, radius in px, added display value.
    """
    h, w = layers.shape
    table = np.repeat(style.reflectivity[:, None], w, 1)
    table[_SUB_RPE] = material
    table[_SUB_RETINA] = np.where(bright_gap > 0, bright_gap, table[_SUB_RETINA])
    faint = np.clip(lift / 120, 0, 1)
    table[9] -= 0.25 * faint
    table[10] -= 0.1 * faint
    table[_RPE] -= 0.05 * faint
    table[_CHOROID:FLUID] -= 0.09 * faint
    table[1] += 0.12 * cloud(rng, (1, w), 1, 40)[0] * (style.reflectivity[1] > 0)
    light = 1 + 0.04 * cloud(rng, (1, w), 1, 90)[0] - 0.12 * np.linspace(-1, 1, w) ** 4
    light += 0.015 * rng.standard_normal(w, dtype=np.float32)
    table *= np.clip(light * style.signal, 0.3, 1.3)
    table[3:] -= 0.22 * shadow * np.clip(style.reflectivity[3:, None] * 3, 0, 1)
    table[FLUID] += 0.03
    value = table.ravel()[layers.astype(np.int32) * w + np.arange(w, dtype=np.int32)]
    # texture of the tissue, then of the choroid: dark lumens of two sizes, and light that fades with depth
    below = (np.arange(h, dtype=np.float32)[:, None] - bm.astype(np.float32)) * np.float32(pixel_um[0] / 1000)
    deep = layers >= _CHOROID
    deep[layers == FLUID] = False
    fine = cloud(rng, (h, w), 26 / pixel_um[0], 45 / pixel_um[1])
    coarse = cloud(rng, (h, w), 75 / pixel_um[0], 130 / pixel_um[1])
    lumens = np.clip(0.5 * fine + 0.75 * coarse, -0.9, 0.9)
    lumens *= np.clip(below * 12, 0, 1) * np.clip(1.6 - 3 * below, 0.25, 1)
    fade = np.clip(below, 0, 0.8) * np.float32(style.decay)
    value += np.where(deep, -0.10 * lumens - fade, 0.02 * fine * (layers > 0))
    for y, x, radius, plus in dots:
        y0, x0, reach = int(y), int(x), int(np.ceil(2 * radius)) + 1
        ys, xs = slice(max(0, y0 - reach), y0 + reach + 1), slice(max(0, x0 - reach), x0 + reach + 1)
        yy, xx = np.ogrid[ys, xs]
        yy, xx = yy[yy[:, 0] < h], xx[:, xx[0] < w]
        value[ys, xs] += plus * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / radius**2)
    value = smooth3(smooth3(value, 0.27, 0.2), 0.2, 0.1)
    return _display(rng, style, value)


def _display(rng: np.random.Generator, style: Style, value: np.ndarray) -> np.ndarray:
    """Multiplicative speckle, additive noise floor, log compression, black level, gain and border."""
    h, w = value.shape
    d = np.float32(style.dynamic)
    grains = smooth3(smooth3(rng.standard_exponential((h, w), dtype=np.float32), *style.grain), *style.grain)
    noise = smooth3(rng.standard_exponential((h, w), dtype=np.float32), 0.12, 0.05)
    linear = np.exp(d * value) * grains ** np.float32(style.speckle)
    linear += np.float32(np.exp(d * style.floor)) * noise
    shown = np.log(linear) / d
    if style.blur:
        shown = smooth3(shown, 0.7 * style.blur, style.blur)
    shown = np.clip((shown - np.float32(style.black)) * np.float32(style.gain), 0, 1) ** np.float32(style.gamma)
    out = (255 * shown + 0.5).astype(np.uint8)
    if style.wedge:
        edge = rng.uniform(0, 0.05 * h) + abs(style.wedge) * (np.arange(w) if style.wedge > 0 else np.arange(w)[::-1])
        if rng.random() < 0.5:
            out[np.arange(h)[:, None] < edge - 0.5 * edge.max()] = 255
        else:
            out[np.arange(h)[:, None] > h - edge + 0.5 * edge.max()] = 255
    return out
