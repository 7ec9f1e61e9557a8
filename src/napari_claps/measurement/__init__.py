"""Numbers from masks: one long tidy table per image.

Every row carries its unit and where the scale came from; without a scale
there are pixels and no millimetres. What was looked for and not found has
rows too: area and count 0, status ``absent``. What was not looked at is NaN,
never 0. The columns and measures are explained in ``docs/measurements.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_claps.types import RetinalImage, SliceResult, SpacingSource

COLUMNS = ("image", "eye", "slice", "structure", "measure", "value", "unit", "status", "coverage",
           "scale_source", "model", "version")
"""Columns of the table, in order."""

NANOLITRE_PER_MM3 = 1000.0


def measure(results: Iterable[SliceResult], image: RetinalImage, *, model: str = "", version: str = "",
            linked: bool = False) -> pd.DataFrame:
    """Measure every target in every slice, and in the whole image or volume.

    Parameters
    ----------
    results : iterable of SliceResult
        From ``Pipeline.run``, in the order of the slices; consumed one by one.
    image : RetinalImage
        What the results were made from; gives name, eye and spacing.
    model, version : str
        Name and version of the bundle, for the last two columns.
    linked : bool
        Whether a number is the same object in all slices, as after :func:`~napari_claps.volumes.numbering.link_slices`.
        Otherwise objects that overlap from one slice to the next are counted as one.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`. Rows of a slice have its number in ``slice``; rows of the whole image or volume
        have none. A plane image has only the latter.
    """
    measurer = Measurer(image, model=model, version=version, linked=linked)
    for result in results:
        measurer.add(result.index, result.masks, presence=result.presence, scores=best_scores(result))
    return measurer.table()


def best_scores(result: SliceResult) -> dict[str, float]:
    """Return the highest box score of each label that has a box."""
    best: dict[str, float] = {}
    for box in result.boxes:
        best[box.label] = max(box.score, best.get(box.label, 0.0))
    return best


def scale_source(image: RetinalImage) -> SpacingSource:
    """Return where the pixel size within a slice comes from; the file may know it without the distance of slices."""
    if image.spacing is None and image.plane_spacing is not None:
        return SpacingSource.FILE
    return image.spacing_source


@dataclass
class Measurer:
    """Collects the rows slice by slice, so that a volume never has to be in memory.

    Parameters
    ----------
    image : RetinalImage
    model, version : str
        For the columns of the same name.
    linked : bool
        Whether a number is the same object in all slices. See `measure`.
    """

    image: RetinalImage
    model: str = ""
    version: str = ""
    linked: bool = False
    _rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    _totals: dict[str, _Total] = field(default_factory=dict, init=False)
    _measured: int = field(default=0, init=False)

    def add(self, index: int, masks: Mapping[str, np.ndarray], *, presence: Mapping[str, float] | None = None,
            scores: Mapping[str, float] | None = None) -> None:
        """Measure one slice.

        Parameters
        ----------
        index : int
            Number of the slice.
        masks : mapping of label to ndarray
            (y, x) instance numbers, 0 = background.
        presence, scores : mapping of label to float, optional
            Score that the target is there, and score of its best box, in [0, 1]; where missing, no such row is made.
        """
        self._measured += 1
        for label, mask in masks.items():
            ids, pixels = _areas(mask)
            found = (presence or {}).get(label), (scores or {}).get(label)
            self._totals.setdefault(label, _Total(self.linked)).add(index, mask, ids, int(pixels.sum()), *found)
            if self.image.is_volume:
                self._add_plane_rows(label, index, len(ids), int(pixels.sum()), *found)

    def table(self) -> pd.DataFrame:
        """Return the rows of all slices, then those of the whole."""
        rows = list(self._rows)
        self._rows, slices = [], rows
        for label, total in self._totals.items():
            if self.image.is_volume:
                self._add_volume_rows(label, total)
            else:
                self._add_plane_rows(label, None, total.count(), total.pixels, total.presence, total.score)
        whole, self._rows = self._rows, slices
        frame = pd.DataFrame([*slices, *whole], columns=list(COLUMNS))
        return frame.astype({"slice": "Int64", "value": float, "coverage": float})

    def _add_plane_rows(self, label: str, index: int | None, count: int, pixels: int,
                        presence: float | None, score: float | None) -> None:
        def row(name: str, value: float, unit: str) -> None:
            self._add(label, index, name, value, unit, present=pixels > 0)

        row("count", count, "n")
        row("area", pixels, "px")
        if self.image.plane_spacing is not None:
            row("area", pixels * math.prod(self.image.plane_spacing), "mm2")
        self._add_scores(label, index, presence, score, present=pixels > 0)

    def _add_volume_rows(self, label: str, total: _Total) -> None:
        coverage = self._measured / self.image.n_slices
        # A volume or a number of objects of which some slices were not looked at is not known.
        complete = 1.0 if coverage == 1 else math.nan

        def row(name: str, value: float, unit: str) -> None:
            self._add(label, None, name, value, unit, present=total.pixels > 0, coverage=coverage)

        row("count", total.count() * complete, "n")
        row("slices_present", total.slices, "n")
        row("volume", total.pixels * complete, "voxel")
        if self.image.spacing is not None:
            volume = total.pixels * math.prod(self.image.spacing) * complete
            row("volume", volume, "mm3")
            row("volume", volume * NANOLITRE_PER_MM3, "nL")
        self._add_scores(label, None, total.presence, total.score, present=total.pixels > 0, coverage=coverage)

    def _add_scores(self, label: str, index: int | None, presence: float | None, score: float | None,
                    *, present: bool, coverage: float = 1.0) -> None:
        for name, value in (("presence", presence), ("max_score", score)):
            if value is not None:
                self._add(label, index, name, value, "1", present=present, coverage=coverage)

    def _add(self, label: str, index: int | None, name: str, value: float, unit: str, *, present: bool,
             coverage: float = 1.0) -> None:
        self._rows.append({
            "image": Path(self.image.source).name, "eye": self.image.laterality or "", "slice": index,
            "structure": label, "measure": name, "value": float(value), "unit": unit,
            "status": "present" if present else "absent", "coverage": coverage,
            "scale_source": str(scale_source(self.image)), "model": self.model, "version": self.version,
        })


@dataclass
class _Total:
    """What has to be remembered of one target from slice to slice."""

    linked: bool
    pixels: int = 0
    slices: int = 0
    presence: float | None = None
    score: float | None = None
    numbers: set[int] = field(default_factory=set)
    objects: int = 0
    links: list[tuple[int, int]] = field(default_factory=list)
    last_index: int = -2
    last_mask: np.ndarray | None = None
    last_nodes: np.ndarray | None = None

    def add(self, index: int, mask: np.ndarray, ids: np.ndarray, pixels: int,
            presence: float | None, score: float | None) -> None:
        self.pixels += pixels
        self.slices += pixels > 0
        self.presence = presence if self.presence is None else max(self.presence, presence or 0.0)
        self.score = score if self.score is None else max(self.score, score or 0.0)
        if self.linked:
            self.numbers.update(ids.tolist())
            return
        nodes = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.int64)
        nodes[ids] = self.objects + np.arange(len(ids))
        self.objects += len(ids)
        if index == self.last_index + 1 and self.last_mask is not None and self.last_nodes is not None:
            both = (mask > 0) & (self.last_mask > 0)
            # A pair of nodes as one number: to sort columns of two takes ten times as long.
            pairs = np.unique(self.last_nodes[self.last_mask[both]] * self.objects + nodes[mask[both]])
            self.links += [divmod(pair, self.objects) for pair in pairs.tolist()]
        self.last_index, self.last_mask, self.last_nodes = index, mask, nodes

    def count(self) -> int:
        """Objects in the volume: different numbers, or if those say nothing, what overlaps from slice to slice."""
        if self.linked:
            return len(self.numbers)
        if self.objects == 0:
            return 0
        a, b = np.array(self.links, dtype=np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(a)), (a, b)), shape=(self.objects, self.objects))
        return int(connected_components(graph, directed=False, return_labels=False))


def _areas(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the instance numbers in a mask and their areas in pixels."""
    areas = np.bincount(mask.ravel())
    areas[0] = 0
    ids = np.flatnonzero(areas)
    return ids, areas[ids]
