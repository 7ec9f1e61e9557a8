"""Pixel classes instead of surfaces, for comparison: what a plain U-Net answers in the same window."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.layers.boundaries import LAYERS
from training.layers.decode import Decoding, Surfaces, at_scans, decode, look
from training.layers.scans import standardise
from training.layers.window import ROWS, find_window, no_surfaces


def class_surfaces(locator: nn.Module, net: nn.Module, image: np.ndarray) -> tuple[Surfaces, dict[str, np.ndarray]]:
    """What a network of classes alone gives for a B-scan (y, x) uint8, in the window that `locator` finds.

    Returns
    -------
    surfaces : Surfaces
        The expected number of rows above each boundary, which is ordered too, and better than the border of a mask.
    masks : dict of str to ndarray
        (y, x) bool, `retina` and all `LAYERS`: where each has the largest probability.
    """
    first = decode(*look(locator, image), image.shape, Decoding(0.3, np.inf, reach=0))
    window = find_window(first)
    if window is None:
        return no_surfaces(first), {n: np.zeros(image.shape, bool) for n in ("retina", *LAYERS)}
    x = torch.from_numpy(standardise(window.cut(image)))[None, None]
    pad = -image.shape[1] % (net.column * net.multiple)
    with torch.no_grad():
        p = net(F.pad(x, (0, pad, 0, 0), mode="replicate")).classes[0].softmax(0)
    at = np.arange(image.shape[1]) / net.column - (net.column - 1) / (2 * net.column)
    heights = at_scans(p.cumsum(0)[:-1].sum(1).numpy() - 0.5, at)
    surfaces = window.back(Surfaces(heights, np.zeros_like(heights), np.ones_like(heights)))
    rows = np.rint((np.arange(image.shape[0])[:, None] - window.line) / window.step + ROWS / 2).astype(int)
    seen = (rows >= 0) & (rows < ROWS)
    largest = p.argmax(0).numpy()[np.clip(rows, 0, ROWS - 1), np.arange(image.shape[1])[None] // net.column]
    masks = {"retina": seen & (largest > 0) & (largest <= len(LAYERS))}
    return surfaces, masks | {n: seen & (largest == k + 1) for k, n in enumerate(LAYERS)}
