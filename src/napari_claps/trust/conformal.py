"""Inner and outer masks: the pixels that are sure, and those that cannot be excluded.

Both are the probability map cut at another threshold than the mask's own. The
thresholds are chosen by conformal risk control (Angelopoulos, Bates, Fisch,
Lei and Schuster, ICLR 2024, arXiv 2208.02814) on images that were not trained
on, for a coverage c:

* **outer**: over images that show the target, the expected share of its true
  pixels that lie in the outer mask is at least c;
* **inner**: over images in which the target is found (rightly or wrongly), the
  expected share of the inner mask's pixels that are true is at least c; an
  empty inner mask claims nothing and counts as right.

Both hold on average over images that are drawn like the calibration images
(exchangeable), and over the draw of these; not for each single image, and not
for another device or population. A target that is wrongly called absent has an
empty outer mask and counts as covered by nothing. Risk-controlling prediction
sets (Bates et al., J. ACM 2021) would give the stronger "with probability 95 %
over the calibration images", which so few images cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from napari_claps.models.bundles.manifest import Pair

LEVELS = (0.8, 0.9, 0.95)
"""Coverages for which bundles are calibrated."""

GRID = np.array([0.002, 0.005, *np.arange(1, 100) / 100, 0.995, 0.998])
"""Thresholds to choose from. A lower one would take nearly the whole image, a higher one hardly a pixel."""

TOLERANCE = 1e-9
"""For sums of fractions."""


def images_needed(coverage: float) -> int:
    """Fewest calibration images with which a coverage can be guaranteed, even if each of them is perfect."""
    return math.ceil(1 / (1 - coverage) - 1 - 1e-6)


def controlled(losses: np.ndarray, coverage: float) -> int | None:
    """First setting whose expected loss on a new image is at most ``1 - coverage``.

    Parameters
    ----------
    losses : (n, k) ndarray
        Loss in [0, 1] of n images at k settings, from the boldest to the most cautious; never rising along a row.
    coverage : float

    Returns
    -------
    int or None
        Smallest index at which ``(sum of losses + 1) / (n + 1) <= 1 - coverage``; None if there is none, as always
        with fewer than `images_needed` images.
    """
    n = len(losses)
    bound = (losses.sum(0) + 1) / (n + 1)
    good = np.flatnonzero(bound <= 1 - coverage + TOLERANCE)
    return int(good[0]) if n and len(good) else None


def missed_curve(probability: np.ndarray, truth: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Share of the true pixels with a probability below each threshold; at least one pixel must be true."""
    inside = np.sort(probability[truth])
    return np.searchsorted(inside, np.asarray(thresholds, inside.dtype), side="left") / len(inside)


def false_curve(probability: np.ndarray, mask: np.ndarray, truth: np.ndarray,
                thresholds: Sequence[float]) -> np.ndarray:
    """Share of false pixels in the part of the mask that reaches each threshold (ascending), made monotone.

    Precision may fall when the threshold rises. The highest share at this or
    any higher threshold never does, and bounds it (section 2.3 of the paper).
    """
    right, wrong = np.sort(probability[mask & truth]), np.sort(probability[mask & ~truth])
    cut = np.asarray(thresholds, probability.dtype)
    n_right, n_wrong = (len(p) - np.searchsorted(p, cut, side="left") for p in (right, wrong))
    share = n_wrong / np.maximum(n_right + n_wrong, 1)
    return np.maximum.accumulate(share[::-1])[::-1]


def outer_thresholds(threshold: float) -> np.ndarray:
    """Candidates from the boldest (the mask's own threshold) to the most cautious."""
    return np.concatenate([[threshold], GRID[threshold > GRID][::-1]])


def inner_thresholds(threshold: float) -> np.ndarray:
    """Candidates from the boldest (the mask's own threshold) to the most cautious."""
    return np.concatenate([[threshold], GRID[threshold < GRID]])


def band_level(pair: Pair, coverage: float) -> str | None:
    """Key of the lowest calibrated coverage of a pair that is at least `coverage`, or None."""
    both = sorted((k for k in pair.outer if k in pair.inner), key=float)
    return next((k for k in both if float(k) >= coverage - TOLERANCE), None)


def band(probability: np.ndarray, mask: np.ndarray, pair: Pair, level: str, *,
         absent: bool) -> tuple[np.ndarray, np.ndarray]:
    """Inner and outer mask of a target.

    Parameters
    ----------
    probability : ndarray
        (y, x) float, of the default run.
    mask : ndarray
        (y, x), non-zero where the target was found.
    pair : Pair
    level : str
        Of `band_level`.
    absent : bool
        Whether the presence says so; both are empty then, as the mask is.

    Returns
    -------
    inner, outer : ndarray
        (y, x) bool; ``inner <= mask <= outer``.
    """
    found = mask > 0
    inner = found & (probability >= pair.inner[level])
    return inner, found if absent else found | (probability >= pair.outer[level])


def why_no_band(pair: Pair | None, coverage: float) -> str:
    """Reason why a pair has no inner and outer masks at a coverage, as the end of a sentence."""
    if pair is None:
        return "free text was not calibrated"
    if not (pair.n_inner or pair.n_outer):
        return "it was not calibrated"
    needed, n = images_needed(coverage), min(pair.n_inner, pair.n_outer)
    if n < needed:
        return f"{n} calibration images are too few, {needed} are needed"
    possible = [k for k in pair.outer if k in pair.inner]
    return "no threshold reaches it" + (f", at most {max(possible, key=float)}" if possible else "")
