"""From scores to the probability that a target is there: logistic regression with one to four inputs.

Needs no torch. A pair of a bundle keeps the numbers as ``calibration``, a
table with ``offset`` and a slope for each input that is used:

    probability = 1 / (1 + exp(-(offset + sum of slope x input)))

Notes
-----
Platt, *Probabilistic outputs for support vector machines*, 1999: targets a
little inside of 0 and 1 keep the fit finite where few images separate the
classes. Slopes are never negative, so a higher score never makes a target less
likely. The probability is that of the images it was fitted on: where the
target is rarer, it is too high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, xlogy

INPUTS = ("presence", "mask", "box", "area")
"""Logit of the presence head, logit of the mask's highest probability, score of the best detected box, and logarithm of
the share of the slice that the mask is expected to fill (its mean probability)."""

EDGE = 1e-4
"""Scores are kept this far from 0 and 1 before their logit is taken."""

NEGLIGIBLE = 1e-3
"""Added to the share of a slice before its logarithm: shares far below do not tell more than none."""

RIDGE = 0.5
"""Weight of the squared slopes (per standard deviation of the input) beside the sum of the images' log losses."""


def presence_inputs(presence: float, probability: np.ndarray,
                    boxes: Sequence[Sequence[float]] = ()) -> dict[str, float]:
    """What is known of the presence of a target in a slice.

    Parameters
    ----------
    presence : float
        Score of the presence head in [0, 1].
    probability : ndarray
        (y, x) in [0, 1], of each pixel.
    boxes : sequence of (y0, x0, y1, x1, score)
        Detected boxes; none counts as a score of 0.

    Returns
    -------
    dict
        A value for each of `INPUTS`.
    """
    best = max((float(b[4]) for b in boxes), default=0.0)
    area = math.log(float(probability.mean(dtype=np.float64)) + NEGLIGIBLE)
    return {"presence": _logit(presence), "mask": _logit(probability.max()), "box": best, "area": area}


def calibrated_presence(calibration: Mapping[str, float], inputs: Mapping[str, float]) -> float:
    """Probability that the target is there.

    Parameters
    ----------
    calibration : mapping
        ``offset`` and slopes, as in a bundle.
    inputs : mapping
        Of `presence_inputs`.
    """
    return float(expit(calibration["offset"] + sum(calibration.get(name, 0.0) * inputs[name] for name in INPUTS)))


def fit_calibration(inputs: Mapping[str, Sequence[float]], present: Sequence[bool]) -> dict[str, float]:
    """Fit offset and slopes.

    Parameters
    ----------
    inputs : mapping of name to sequence of float
        Some of `INPUTS`, a value for each image.
    present : sequence of bool
        Whether the image shows the target; both must occur.

    Returns
    -------
    dict
        ``offset`` and a slope >= 0 for each input.
    """
    names = list(inputs)
    x = np.column_stack([np.asarray(inputs[n], float) for n in names])
    y = np.asarray(present, bool)
    n_present, n_absent = int(y.sum()), int((~y).sum())
    goal = np.where(y, (n_present + 1) / (n_present + 2), 1 / (n_absent + 2))
    ridge = RIDGE / len(y)
    # Inputs of one spread share a ridge, and the search converges.
    middle, spread = x.mean(0), np.maximum(x.std(0), 1e-6)
    z = (x - middle) / spread

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        p = expit(w[0] + z @ w[1:])
        wrong = p - goal
        value = -np.mean(xlogy(goal, np.maximum(p, 1e-12)) + xlogy(1 - goal, np.maximum(1 - p, 1e-12)))
        gradient = np.concatenate([[wrong.mean()], z.T @ wrong / len(y) + 2 * ridge * w[1:]])
        return float(value + ridge * np.sum(w[1:] ** 2)), gradient

    start = np.concatenate([[math.log((n_present + 1) / (n_absent + 1))], np.ones(len(names)) / len(names)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(None, None)] + [(0, None)] * len(names)).x
    slopes = found[1:] / spread
    return {"offset": float(found[0] - slopes @ middle), **{n: float(s) for n, s in zip(names, slopes, strict=True)}}


def log_loss(probability: Sequence[float], present: Sequence[bool]) -> float:
    """Mean of -log of the probability given to what was true."""
    p, y = np.clip(np.asarray(probability, float), 1e-6, 1 - 1e-6), np.asarray(present, bool)
    return float(-np.mean(np.log(np.where(y, p, 1 - p))))


def calibration_error(probability: Sequence[float], present: Sequence[bool], *,
                      bins: int = 5) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error, and the points of the reliability curve.

    The images are cut into `bins` groups of about equal size in order of
    their probability (few images leave bins of equal width empty); images of
    one probability stay together.

    Returns
    -------
    error : float
        Mean over all images of how far their group's mean probability is from its share of present.
    groups : list of dict
        ``n, probability, present`` of each group, ascending.
    """
    p, y = np.asarray(probability, float), np.asarray(present, float)
    order = np.argsort(p, kind="stable")
    p, y = p[order], y[order]
    starts = np.linspace(0, len(p), bins + 1)[:-1].astype(int)
    cuts = np.unique(np.searchsorted(p, p[starts], side="left"))
    groups = [{"n": len(a), "probability": float(a.mean()), "present": float(b.mean())}
              for a, b in zip(np.split(p, cuts[1:]), np.split(y, cuts[1:]), strict=True)]
    return sum(g["n"] * abs(g["probability"] - g["present"]) for g in groups) / len(p), groups


def _logit(score: float) -> float:
    p = min(max(float(score), EDGE), 1 - EDGE)
    return math.log(p / (1 - p))
