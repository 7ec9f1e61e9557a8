"""One slice, asked in several ways: mirrored, with other words, with shifted boxes.

The encoder runs once for each mirroring; the wordings of the vocabulary are
shared out among these and go through the mask decoder in one batch. So the
cost is about the number of mirrorings: two for a B-scan (up and down are not
alike in it), four for an image of the fundus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from napari_claps.inference.mirroring import looks, mirrorings
from napari_claps.inference.single_scale import ScaleResult, segment_at_scale
from napari_claps.inference.tile_prediction import is_boxed
from napari_claps.methods.base import Prompter, Query, ViewBox
from napari_claps.models.bundles.manifest import Pair
from napari_claps.types import Modality, Prompt
from napari_claps.words.vocabulary import TARGETS, TEMPLATES, class_text

if TYPE_CHECKING:
    from napari_claps.models.bundles.bundle import Bundle
    from napari_claps.models.networks.clip import EncodedViews

BOX_SHIFT = 0.1
"""Standard deviation of a shifted box edge as a share of the box's side, with `MOST_SHIFT` as in SAM's training."""

MOST_SHIFT = 20.0
"""Largest standard deviation of a box edge in pixels of the view (Kirillov et al. 2023, appendix A)."""


class ShiftedBoxes:
    """A prompter that is asked about the first `n_asked` prompts only, and whose boxes are moved at random.

    Parameters
    ----------
    prompter : Prompter
    n_asked : int
        The prompts after these are other wordings, for which no boxes are sought.
    seeds : sequence of sequence of int
        One for each slice of the batch; empty leaves the boxes where they are.
    """

    def __init__(self, prompter: Prompter, n_asked: int, seeds: Sequence[Sequence[int]]) -> None:
        self._prompter = prompter
        self.text_weight = prompter.text_weight
        self._n_asked = n_asked
        self._seeds = seeds
        self._tiles = count()

    def find(self, features: EncodedViews, queries: Sequence[Query],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """See `Prompter.find`."""
        found = self._prompter.find(features, queries[:self._n_asked], view_size)
        tile = next(self._tiles)
        if not self._seeds:
            return found
        return [[shifted(box, rng, view_size) for box in boxes] for boxes, rng in
                zip(found, (np.random.default_rng([*seed, tile]) for seed in self._seeds), strict=True)]


def shifted(box: ViewBox, rng: np.random.Generator, view_size: tuple[int, int]) -> ViewBox:
    """Return a box with its four edges moved, inside the view and at least a pixel wide and high."""
    corners = []
    for first, last, limit in ((*box.corners[0::2], view_size[1]), (*box.corners[1::2], view_size[0])):
        noise = rng.normal(0, min(BOX_SHIFT * (last - first), MOST_SHIFT), 2)
        moved = np.clip(np.array([first, last]) + noise, 0, limit)
        corners.append((float(moved[0]), float(moved[1])) if moved[1] - moved[0] >= 1 else (first, last))
    (x0, x1), (y0, y1) = corners
    return replace(box, corners=(x0, y0, x1, y1))


@dataclass(frozen=True)
class _Question:
    """What is sent in one pass: the queries as they are, then other wordings, then the plain texts without boxes."""

    queries: list[Query]
    wordings: list[list[int]]
    """Per query, the places of its other wordings."""
    text_only: dict[int, int]
    """Place of the plain text without boxes, for queries whose mask is a mixture."""


def _text_share(bundle: Bundle, prompter: Prompter, pair: Pair) -> float:
    """How much the words count in the mask of a boxed prompt."""
    if not bundle.takes_text:
        return 0.0
    return pair.text_weight if prompter.text_weight is None else prompter.text_weight


def _question(queries: Sequence[Query], shares: Sequence[float], modality: Modality,
              templates: Sequence[str]) -> _Question:
    question = _Question(list(queries), [[] for _ in queries], {})

    def add(prompt: Prompt, pair: Pair) -> int:
        question.queries.append(Query(prompt, replace(pair, text_weight=1.0)))
        return len(question.queries) - 1

    for i, (query, share) in enumerate(zip(queries, shares, strict=True)):
        prompt, pair = query.prompt, query.pair
        if prompt.target is None or share == 0:  # free text has no other wording; boxes have no words
            continue
        for template in templates:
            text = class_text(TARGETS[prompt.target], modality, template)
            question.wordings[i].append(add(replace(prompt, text=text), pair))
        if question.wordings[i] and share < 1:
            question.text_only[i] = add(prompt, pair)
    return question


def segment_ensemble(bundle: Bundle, prompter: Prompter, planes: Sequence[np.ndarray], side: int,
                     queries: Sequence[Query], *, modality: Modality, seed: int,
                     slices: Sequence[int], mirrored: bool = True) -> tuple[list[ScaleResult], list[np.ndarray]]:
    """Find prompts in slices of one shape, at one scale, by an ensemble.

    Parameters
    ----------
    bundle, prompter, planes, side, queries
        As for `segment_at_scale`.
    modality : Modality
    seed : int
    slices : sequence of int
        Numbers of the slices, so that their random shifts do not depend on the batch.
    mirrored : bool
        As for `segment_at_scale`, of a single run. One that looks once is the first pass of the ensemble.

    Returns
    -------
    plain : list of ScaleResult
        What a single default run says of each plane; `seconds` are those of the ensemble.
    mean : list of ndarray
        (P, y, x) float32 mean probability of all members, for each plane.
    """
    boxed = [is_boxed(query.prompt, bundle) for query in queries]
    shares = [_text_share(bundle, prompter, query.pair) if b else 1.0
              for query, b in zip(queries, boxed, strict=True)]
    flips = mirrorings(modality)
    totals = [np.zeros((len(queries), *planes[0].shape[:2]), np.float32) for _ in planes]
    members = np.zeros(len(queries), np.float32)
    several = mirrored and len(looks(bundle.manifest, modality)) > 1
    plain = segment_at_scale(bundle, prompter, planes, side, queries) if several else []
    seconds = dict(plain[0].seconds) if plain else {}
    for f, axes in enumerate(flips):
        templates = TEMPLATES[1 + f::len(flips)] if bundle.manifest.signature else ()
        question = _question(queries, shares, modality, templates)
        asking = ShiftedBoxes(prompter, sum(boxed), [(seed, f, s) for s in slices] if f else [])
        flipped = [np.flip(plane, axes) for plane in planes]
        results = segment_at_scale(bundle, asking, flipped, side, question.queries, mirrored=False)
        for stage, value in results[0].seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        if not plain:
            n = len(queries)
            plain = [replace(r, probability=r.probability[:n].copy(), presence=r.presence[:n], boxes=r.boxes[:n])
                     for r in results]
        for total, result in zip(totals, results, strict=True):
            maps = np.flip(result.probability, tuple(a + 1 for a in axes))
            for i, share in enumerate(shares):
                total[i] += maps[i]
                # With other words only the text's share of a mixture changes; the boxes' share stays.
                boxes_share = maps[i] - share * maps[question.text_only[i]] if i in question.text_only else 0.0
                for k in question.wordings[i]:
                    total[i] += share * maps[k] + boxes_share
        members += [1 + len(w) for w in question.wordings]
    means = [np.clip(total / members[:, None, None], 0, 1) for total in totals]
    return [replace(p, seconds=seconds) for p in plain], means
