"""A volume as one: an object that goes through many B-scans has one number, and flickers are damped.

Two passes: the first reads the slices and keeps a table of their objects
(:mod:`napari_claps.volumes.linking`), the second gives every plane its new numbers,
wherever the planes are: in an array, in a file, or on their way to a writer.

Notes
-----
A *flicker* is an object in one slice only, smaller than `LinkRule.small` and
with a score below `LinkRule.strong`. As in Seq-NMS (Han et al. 2016,
arXiv 1602.08465) it is scored again with what its neighbours say. The n <= 2
neighbouring slices that were looked at hold no part of it, so all that speaks
for it there is the presence p of the target, which counts half because it may
mean another object:

    damped = min(score, (score + sum(p / 2)) / (1 + n))

It is kept with the damped score where that reaches `LinkRule.keep`, else
removed. Objects that are large, or sure, or in two slices stay as they are;
so do those of layers and vessel trees, and those without a neighbour or a
score to judge them by.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType, TracebackType

import numpy as np
import pandas as pd

from napari_claps.types import Box, SliceResult
from napari_claps.volumes.linking import LinkRule, SliceLinker, is_whole

MOST = np.iinfo(np.uint16).max
"""Objects of a target that can be told apart; the rest share the last number, as in a slice."""

IN_MEMORY = 16 * 2**20
"""Bytes of compressed masks that are kept in memory before they go to a temporary file."""


@dataclass(frozen=True, eq=False)
class VolumeLinks:
    """The numbers of all objects of a volume, and how to apply them.

    Parameters
    ----------
    objects : DataFrame
        One row per object and slice: ``label``, ``order`` (place of the slice among those looked at), ``slice``,
        ``instance`` (number in the slice before), ``number`` (in the volume; 0 = removed), ``pixels``, ``area`` (mm2,
        or pixels), ``y``, ``x`` (centre in pixels), ``score`` (NaN without a box), ``damped`` (score after damping).
    slices : tuple of int
        Slices that were looked at, ascending.
    presence : mapping of label to tuple of float
        Score of the target in each of `slices`.
    neighbours : tuple of bool
        Whether each of `slices` is near enough to the one before it to say something about it.
    plane_shape : tuple of int
    rule : LinkRule
    """

    objects: pd.DataFrame
    slices: tuple[int, ...]
    presence: Mapping[str, tuple[float, ...]]
    neighbours: tuple[bool, ...]
    plane_shape: tuple[int, int]
    rule: LinkRule
    _numbers: Mapping[tuple[str, int], np.ndarray] = field(init=False, repr=False)
    _scores: Mapping[tuple[str, int, int], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = {}
        for key, rows in self.objects.groupby(["label", "slice"], sort=False):
            table = np.arange(rows["instance"].max() + 1, dtype=np.uint16)
            table[rows["instance"]] = rows["number"]
            numbers[key] = table
        damped = self.objects[self.objects["damped"] < self.objects["score"]]
        scores = {(label, int(k), int(i)): float(s) for label, k, i, s in
                  damped[["label", "slice", "instance", "damped"]].itertuples(index=False)}
        object.__setattr__(self, "_numbers", numbers)
        object.__setattr__(self, "_scores", scores)

    @property
    def n_objects(self) -> dict[str, int]:
        """Number of objects in the volume for each label."""
        kept = self.objects[self.objects["number"] > 0]
        counts = kept.groupby("label")["number"].nunique()
        return {label: int(counts.get(label, 0)) for label in self.presence}

    def relabel(self, label: str, index: int, mask: np.ndarray) -> np.ndarray:
        """Return the (y, x) uint16 mask of slice `index` with the numbers of the volume.

        Numbers that were not in the slice when it was linked, because
        somebody painted meanwhile, stay what they are.
        """
        table = self._numbers.get((label, index))
        if table is None:
            return mask.astype(np.uint16)
        if is_whole(label):
            return (mask > 0).astype(np.uint16)
        highest = int(mask.max(initial=0))
        if highest >= len(table):
            table = np.concatenate([table, np.arange(len(table), highest + 1, dtype=np.uint16)])
        return table[mask]

    def relabel_volume(self, label: str, volume: np.ndarray) -> None:
        """Change the numbers of a (z, y, x) array in place, plane by plane.

        Once only: the numbers of the slices are gone then.
        """
        for index in self.slices:
            if (label, index) in self._numbers:
                volume[index] = self.relabel(label, index, np.asarray(volume[index]))

    def relabel_boxes(self, boxes: Iterable[Box]) -> tuple[Box, ...]:
        """Return boxes with the numbers and scores of the volume; those of removed objects are left out."""
        kept = []
        for box in boxes:
            number = self.number(box.label, box.slice_index, box.instance)
            if number or not box.instance:
                score = self._scores.get((box.label, box.slice_index, box.instance), box.score)
                kept.append(replace(box, instance=number, score=score))
        return tuple(kept)

    def number(self, label: str, index: int, instance: int) -> int:
        """Return the number in the volume of an instance of a slice, 0 if it was removed."""
        table = self._numbers.get((label, index), ())
        return int(table[instance]) if instance < len(table) else instance

    def relabel_result(self, result: SliceResult) -> SliceResult:
        """Return a slice with the numbers of the volume; what was removed is not sure, so it leaves the inner masks."""
        masks = {label: self.relabel(label, result.index, mask) for label, mask in result.masks.items()}
        inner = {label: plane & (masks[label] > 0) for label, plane in result.inner.items()}
        return replace(result, masks=masks, boxes=self.relabel_boxes(result.boxes), inner=inner)


def number_objects(linker: SliceLinker) -> VolumeLinks:
    """Number the objects that were linked, and damp the flickers.

    The numbers of a target count from 1 in the order of its objects' first
    slices, within a slice in reading order. They do not depend on the numbers
    that the objects had in the slices.
    """
    table, chain = linker.chains()
    chain = _one_chain_per_whole(table, chain)
    near = (False, *(linker.are_neighbours(a, b) for a, b in pairwise(linker.slices)))
    damped = _damped(table, chain, linker.presence, near, linker.rule)
    removed = (damped < table["score"]) & (damped < linker.rule.keep)
    numbers = np.zeros(len(table), np.int64)
    order = table.assign(chain=chain)[~removed].sort_values(["slice", "first"])
    for _, rows in order.groupby("label", sort=False):
        numbers[rows.index] = np.minimum(pd.factorize(rows["chain"])[0] + 1, MOST)
    objects = table.drop(columns="first").assign(number=numbers, damped=damped)
    presence = {label: tuple(values) for label, values in linker.presence.items()}
    return VolumeLinks(objects, tuple(linker.slices), MappingProxyType(presence), near, linker.plane_shape, linker.rule)


def link_slices(results: Iterable[SliceResult], spacing: tuple[float, ...] | None, *,
                rule: LinkRule | None = None) -> LinkedResults:
    """Link the objects of a volume across its slices.

    Parameters
    ----------
    results : iterable of SliceResult
        In ascending order; consumed here. A generator is closed if it fails or is interrupted.
    spacing : tuple of float or None
        mm per voxel along (z, y, x).
    rule : LinkRule, optional
        By default `MM_RULE` or `PIXEL_RULE`.

    Returns
    -------
    LinkedResults
        The same slices with the numbers of the volume, and the `VolumeLinks`.

    Examples
    --------
    >>> with link_slices(pipeline.run(image, ["intraretinal_fluid"]), image.spacing) as linked:  # doctest: +SKIP
    ...     for result in linked:
    ...         files.add(result)
    """
    linker = SliceLinker(spacing, rule)
    linked = LinkedResults()
    try:
        with closing(results) if isinstance(results, Generator) else nullcontext():
            for result in results:
                linker.add(result)
                linked.keep(result)
        linked.links = number_objects(linker)
    except BaseException:
        linked.close()
        raise
    return linked


PLANES = ("masks", "uncertainty", "inner", "outer")
"""Fields of a `SliceResult` that hold a (y, x) plane for each label."""


class LinkedResults:
    """Slices of a volume, compressed in memory or a temporary file, that come out with the numbers of `links`."""

    links: VolumeLinks

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - lives as long as the results
        self._kept: list[tuple[SliceResult, dict[str, dict[str, _Place]]]] = []

    def keep(self, result: SliceResult) -> None:
        """Put a slice away."""
        where: dict[str, dict[str, _Place]] = {}
        bare: dict[str, dict[str, np.ndarray]] = {}
        self._spool.seek(0, 2)
        for name in PLANES:
            planes = getattr(result, name)
            where[name] = {label: self._put(plane) for label, plane in planes.items()}
            # A plane of no size stands for the one in the file.
            bare[name] = {label: np.empty((0, plane.shape[1]), plane.dtype) for label, plane in planes.items()}
        self._kept.append((_with_planes(result, bare), where))

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[SliceResult]:
        for result, where in self._kept:
            planes = {name: {label: self._get(place) for label, place in places.items()}
                      for name, places in where.items()}
            yield self.links.relabel_result(_with_planes(result, planes))

    def close(self) -> None:
        """Give memory and temporary file back."""
        self._spool.close()

    def __enter__(self) -> LinkedResults:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _put(self, plane: np.ndarray) -> _Place:
        packed = zlib.compress(np.ascontiguousarray(plane).tobytes(), level=1)
        start = self._spool.tell()
        self._spool.write(packed)
        return _Place(start, len(packed), plane.dtype)

    def _get(self, place: _Place) -> np.ndarray:
        self._spool.seek(place.start)
        pixels = zlib.decompress(self._spool.read(place.size))
        return np.frombuffer(pixels, place.dtype).reshape(self.links.plane_shape)


def _with_planes(result: SliceResult, planes: Mapping[str, dict[str, np.ndarray]]) -> SliceResult:
    return replace(result, masks=planes["masks"], uncertainty=planes["uncertainty"], inner=planes["inner"],
                   outer=planes["outer"])


@dataclass(frozen=True)
class _Place:
    """Where a plane lies in the temporary file."""

    start: int
    size: int
    dtype: np.dtype


def _one_chain_per_whole(table: pd.DataFrame, chain: np.ndarray) -> np.ndarray:
    """Give all objects of a vessel tree or layer one chain."""
    chain = chain.copy()
    for label, rows in table.groupby("label", sort=False):
        if is_whole(label):
            chain[rows.index] = chain[rows.index[0]]
    return chain


def _damped(table: pd.DataFrame, chain: np.ndarray, presence: Mapping[str, Sequence[float]], near: Sequence[bool],
            rule: LinkRule) -> np.ndarray:
    """Return the scores of all objects after damping."""
    scores = table["score"].to_numpy(float).copy()
    if not rule.damp or not len(table):
        return scores
    alone = np.bincount(chain)[chain] == 1
    flicker = alone & (table["area"] < rule.small) & (scores < rule.strong) & ~table["label"].map(is_whole)
    for row in table[flicker].itertuples():
        seen = presence[row.label]
        sides = [k for k in (row.order - 1, row.order + 1) if 0 <= k < len(seen) and near[max(k, row.order)]]
        evidence = [seen[k] / 2 for k in sides if not np.isnan(seen[k])]
        scores[row.Index] = min(row.score, (row.score + sum(evidence)) / (1 + len(evidence)))
    return scores
