"""How much the members of an ensemble agree, pixel by pixel.

The members are answers to the same question asked in slightly different ways
(flips of the image, other words, jittered boxes). The entropy of their mean is
the total uncertainty; it splits into what every member is unsure of itself
(expected entropy: a blurred border) and what the members disagree about
(mutual information: the answer depends on how one asks).
"""

from __future__ import annotations

import numpy as np


def binary_entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy in bits of yes-or-no probabilities of any shape: 0 where they are 0 or 1, 1 where they are 0.5.

    Returns
    -------
    ndarray
        float32, of the same shape, in [0, 1]; NaN stays NaN.
    """
    p = np.asarray(probability, np.float32)
    q = 1 - p
    # 0 log 0 is 0: the logarithm is kept finite, its factor does the rest.
    tiny = np.finfo(np.float32).tiny
    entropy = -(p * np.log2(np.maximum(p, tiny)) + q * np.log2(np.maximum(q, tiny)))
    return np.clip(entropy, 0, 1)


def ensemble_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the mean of the members, the total (predictive) uncertainty.

    Parameters
    ----------
    probabilities : (E, y, x) ndarray
        Probability of every pixel by each of E members, in [0, 1].

    Returns
    -------
    (y, x) ndarray
        float32, bits, 0 to 1.
    """
    return binary_entropy(np.asarray(probabilities, np.float32).mean(0))


def mutual_information(probabilities: np.ndarray) -> np.ndarray:
    """What the members disagree about: entropy of the mean less the mean of the entropies.

    Parameters
    ----------
    probabilities : (E, y, x) ndarray
        As for `ensemble_entropy`.

    Returns
    -------
    (y, x) ndarray
        float32, bits, 0 (all members say the same) to `ensemble_entropy`.

    Notes
    -----
    Depeweg et al., *Decomposition of Uncertainty in Bayesian Deep Learning*, ICML 2018.
    """
    members = binary_entropy(probabilities).mean(0)
    return np.clip(ensemble_entropy(probabilities) - members, 0, None)
