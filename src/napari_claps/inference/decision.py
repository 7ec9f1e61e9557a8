"""From what the networks say of one target in one slice to what is answered: present or absent, mask, boxes, doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from napari_claps.inference.objects import drop_low_scores, extract_objects, keep_single, match_boxes
from napari_claps.methods.base import Query
from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.calibration import calibrated_presence, presence_inputs
from napari_claps.trust.conformal import band
from napari_claps.trust.entropy import binary_entropy
from napari_claps.types import Box
from napari_claps.words.vocabulary import TARGETS, kind_of


@dataclass(frozen=True, eq=False)
class Scores:
    """What the networks say: `probability` (y, x) float32, `presence` in [0, 1], and (y0, x0, y1, x1, score) boxes."""

    probability: np.ndarray
    presence: float
    boxes: Sequence[tuple[float, float, float, float, float]]


@dataclass(frozen=True, eq=False)
class Finding:
    """The answer.

    Parameters
    ----------
    mask : ndarray
        (y, x) uint16 instance numbers.
    boxes : tuple of Box
    presence : float
        Calibrated, where the pair is; else the score of the presence head.
    uncertainty : ndarray or None
        (y, x) float32, bits.
    inner, outer : ndarray or None
        (y, x) bool.
    """

    mask: np.ndarray
    boxes: tuple[Box, ...]
    presence: float
    uncertainty: np.ndarray | None = None
    inner: np.ndarray | None = None
    outer: np.ndarray | None = None


def presence_of(scores: Scores, pair: Pair) -> float:
    """Presence of a target in the units of its pair."""
    if not pair.calibration:
        return scores.presence
    return calibrated_presence(pair.calibration, presence_inputs(scores.presence, scores.probability, scores.boxes))


def decide(query: Query, scores: Scores, *, area: float, slice_index: int = 0,
           score_threshold: float = 0.0, mean: np.ndarray | None = None, level: str | None = None) -> Finding:
    """Answer for one target of one slice.

    Parameters
    ----------
    query : Query
    scores : Scores
        Of the default run.
    area : float
        Pixels of the slice in one pixel of the working scale.
    slice_index : int
    score_threshold : float
        Objects with a lower score are dropped.
    mean : ndarray, optional
        (y, x) mean probability of an ensemble: it makes the mask and the uncertainty. Presence, inner and outer stay
        those of the default run, for which they were calibrated.
    level : str, optional
        Coverage of the inner and outer masks, of `conformal.band_level`.
    """
    prompt, pair = query.prompt, query.pair
    presence = presence_of(scores, pair)
    absent = presence < pair.presence
    probability = scores.probability if mean is None else mean
    mask = np.zeros(probability.shape, np.uint16)
    boxes: tuple[Box, ...] = ()
    if not absent:
        target = TARGETS[prompt.target] if prompt.target is not None else None
        whole = kind_of(prompt.target).is_whole
        mask = extract_objects(probability, threshold=pair.threshold, min_area=pair.min_area * area, whole=whole)
        if target is not None and target.single:
            mask = keep_single(mask, probability)
        boxes = match_boxes(mask, probability, scores.boxes, name=prompt.label, slice_index=slice_index)
        mask, boxes = drop_low_scores(mask, boxes, score_threshold)
    entropy = None
    if mean is not None:
        entropy = binary_entropy(mean)
        boxes = with_uncertainty(boxes, mask, entropy)
    inner, outer = (None, None) if level is None else band(scores.probability, mask, pair, level, absent=absent)
    return Finding(mask, boxes, presence, entropy, inner, outer)


def with_uncertainty(boxes: tuple[Box, ...], mask: np.ndarray, entropy: np.ndarray) -> tuple[Box, ...]:
    """Give every box the mean entropy of its object's pixels."""
    if not boxes:
        return boxes
    means = ndimage.mean(entropy, mask, [b.instance for b in boxes])
    return tuple(replace(b, uncertainty=float(m)) for b, m in zip(boxes, means, strict=True))
