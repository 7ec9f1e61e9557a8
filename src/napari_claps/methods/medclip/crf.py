"""A dense conditional random field of two labels: positions that are near and alike in colour get the same label.

Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian
Edge Potentials" (NeurIPS 2011). A saliency map has so few positions that the
sums over all pairs are written out, and no approximate filter is needed.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from skimage.transform import resize

LONGEST = 64
"""Positions along the long side; the memory grows with its fourth power (64 MB at 64 x 64)."""

NEAR, SMOOTH = 0.1, 0.02
"""Standard deviations of the two kernels in space, as shares of the long side: with colour, and without."""

COLOUR = 0.05
"""Standard deviation of the first kernel in colour, of values in [0, 1] (13 of 255)."""

WEIGHTS = (4.0, 2.0)
"""Of the two kernels, whose rows sum to about 1."""

STEPS = 10


def refine(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean-field inference.

    Parameters
    ----------
    probability : ndarray
        (y, x) float in [0, 1], of the foreground by itself.
    image : ndarray
        (Y, X, 3) float in [0, 1], of the same field at any size.

    Returns
    -------
    ndarray
        (y, x) float32, the probability in view of all others.
    """
    shape = probability.shape
    factor = min(1.0, LONGEST / max(shape))
    size = tuple(max(1, round(n * factor)) for n in shape)
    colours = resize(image, (*size, 3), order=1, anti_aliasing=True).reshape(-1, 3)
    alone = logit(np.clip(resize(probability, size, order=1, anti_aliasing=True), 0.01, 0.99)).ravel()
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 2) / max(size)
    kernel = sum(weight * gaussian(features) for weight, features in zip(
        WEIGHTS, (np.hstack([places / NEAR, colours / COLOUR]), places / SMOOTH), strict=True))
    belief = expit(alone)
    for _ in range(STEPS):
        belief = expit(alone + kernel @ (2 * belief - 1))  # a Potts model: the message is agreement less disagreement
    return resize(belief.reshape(size), shape, order=1).astype(np.float32)


def gaussian(features: np.ndarray) -> np.ndarray:
    """Kernel (N, N) float32 of features (N, D) in standard deviations, symmetrically normalised; 0 on the diagonal."""
    features = features.astype(np.float32)
    squares = (features ** 2).sum(1)
    kernel = np.exp(-np.maximum(squares[:, None] + squares - 2 * features @ features.T, 0) / 2)
    np.fill_diagonal(kernel, 0)
    scale = 1 / np.sqrt(kernel.sum(1) + 1e-6)
    return kernel * scale[:, None] * scale
