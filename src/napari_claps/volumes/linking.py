"""Which objects of neighbouring slices are one object: overlap, axial motion, and gaps.

Slices come one by one and only a table of their objects is kept, so that the
memory does not grow with the size of the volume.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_claps.errors import InputError
from napari_claps.types import Modality, SliceResult
from napari_claps.words.vocabulary import kind_of

COLUMNS = ("label", "order", "slice", "instance", "pixels", "area", "first", "y", "x", "score")
"""Columns of the table of objects; `order` is the place of the slice among those looked at, `first` the first pixel."""

PIXELS = COLUMNS.index("pixels")


@dataclass(frozen=True)
class LinkRule:
    """When objects are one, and which of them are doubted.

    Lengths are in mm and areas in mm2 where the spacing is known, else in
    pixels (in slices along z): see `MM_RULE`, `PIXEL_RULE` and `rule_for`.

    Parameters
    ----------
    max_distance : float
        Slices farther apart along z say nothing about each other.
    reach : float
        Largest axial motion of the eye between two slices, which is taken out before overlap is measured.
    min_overlap : float
        Common area from which objects of neighbouring slices are one; for an object less than twice as large,
        half its area.
    small : float
        Area below which an object in a single slice may be a flicker.
    gap_distance : float
        Distance along z up to which a gap is bridged: lesions that lie farther apart are often two.
    max_gap : int
        Slices that an object may be missing in, and still be one object. 0 bridges none.
    gap_share : float
        Share of the smaller object that must overlap across a gap.
    damp : bool
        Whether flickers are damped (see :mod:`napari_claps.volumes.numbering`).
    strong : float
        Score from which an object is never a flicker.
    keep : float
        Damped score below which a flicker is removed.
    """

    max_distance: float
    reach: float
    min_overlap: float
    small: float
    gap_distance: float
    max_gap: int = 1
    gap_share: float = 0.25
    damp: bool = True
    strong: float = 0.75
    keep: float = 0.35

    def __post_init__(self) -> None:
        if min(self.max_distance, self.reach, self.min_overlap, self.small, self.gap_distance, self.max_gap) < 0:
            raise InputError(f"{self}: distances, areas and gaps cannot be negative.")
        if not all(0 <= share <= 1 for share in (self.gap_share, self.strong, self.keep)):
            raise InputError(f"{self}: gap_share, strong and keep must lie between 0 and 1.")


MM_RULE = LinkRule(max_distance=0.5, reach=0.02, min_overlap=2e-4, small=0.01, gap_distance=0.3)
"""0.0002 mm2 is a square of 14 um, 0.01 mm2 one of 0.1 mm: about the smallest cyst that graders draw."""

PIXEL_RULE = LinkRule(max_distance=2, reach=5, min_overlap=4, small=200, gap_distance=2)
"""About the same at the usual sampling of macular OCT, for volumes whose spacing nobody said."""


def rule_for(spacing: tuple[float, ...] | None, *, score_threshold: float | None = None) -> LinkRule:
    """Return the default rule, in mm or in pixels; an object that the user's threshold drops is not kept by it."""
    rule = PIXEL_RULE if spacing is None else MM_RULE
    return replace(rule, keep=max(rule.keep, score_threshold or 0.0))


def can_link(modality: Modality) -> bool:
    """Whether neighbours show the same objects: the z axis of an angiogram is time, en-face slabs lie apart."""
    return modality is Modality.OCT


def is_whole(label: str) -> bool:
    """Whether all pixels of a target are one object: vessel trees and layers."""
    return kind_of(label).is_whole


@dataclass(eq=False)
class _Plane:
    """What is kept of the last few slices: masks, and for each label the table row of every instance number."""

    order: int
    index: int
    masks: Mapping[str, np.ndarray]
    rows: dict[str, np.ndarray] = field(default_factory=dict)


class SliceLinker:
    """First pass over a volume: collects the objects of its slices and the links between them.

    Parameters
    ----------
    spacing : tuple of float or None
        mm per voxel along (z, y, x), or None when unknown.
    rule : LinkRule, optional
        By default the one for the unit.

    Notes
    -----
    Objects of two neighbouring slices are linked if they overlap by
    `rule.min_overlap`; an object that ends, and one that begins at most
    `rule.max_gap` slices and `rule.gap_distance` later, if they overlap by `rule.gap_share`. Chains of
    links are one object, so that pockets that merge or split are one too.
    Neighbours are slices that were looked at: with every third slice, those.
    """

    def __init__(self, spacing: tuple[float, ...] | None = None, rule: LinkRule | None = None) -> None:
        if spacing is not None and len(spacing) == 2:
            spacing = (math.inf, *spacing)  # a plane image has no neighbours
        self.spacing = spacing
        self.rule = rule or rule_for(spacing)
        self.slices: list[int] = []
        self.presence: dict[str, list[float]] = {}
        self.plane_shape = (0, 0)
        self._objects: list[tuple] = []
        self._edges: list[tuple[int, int]] = []
        self._goes_on: list[bool] = []
        self._went_before: list[bool] = []
        self._recent: deque[_Plane] = deque(maxlen=self.rule.max_gap + 1)

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in mm2, or 1."""
        return self.spacing[1] * self.spacing[2] if self.spacing else 1.0

    def are_neighbours(self, first: int, second: int) -> bool:
        """Whether two slices are near enough to say something about each other."""
        return self._distance(first, second) <= self.rule.max_distance

    def add(self, result: SliceResult) -> None:
        """Take a slice; the arrays of the last few are kept and must not be changed meanwhile.

        Raises
        ------
        InputError
            If the slices do not come in ascending order, or are no B-scans.
        """
        if not can_link(modality := result.modality.modality):
            raise InputError(f"Slice {result.index} is no B-scan ({modality}): slices of other images are no "
                             "neighbours, and their objects cannot be linked.")
        if self.slices and result.index <= self.slices[-1]:
            raise InputError(f"Slice {result.index} comes after slice {self.slices[-1]}: slices can be linked only in "
                             "ascending order, each once.")
        plane = _Plane(len(self.slices), result.index, result.masks)
        scores = {(b.label, b.instance): b.score for b in result.boxes if b.instance}
        for label, mask in result.masks.items():
            self.plane_shape = mask.shape
            self.presence.setdefault(label, [math.nan] * len(self.slices))
            plane.rows[label] = self._note(plane, label, mask, scores)
        for label, seen in self.presence.items():
            seen.append(result.presence.get(label, math.nan))
        self.slices.append(result.index)
        for earlier in reversed(self._recent):  # the nearest first: a gap is bridged only where nothing was nearer
            is_gap = plane.order - earlier.order > 1
            farthest = self.rule.gap_distance if is_gap else self.rule.max_distance
            if self._distance(earlier.index, plane.index) <= farthest:
                self._link(earlier, plane, is_gap=is_gap)
        self._recent.append(plane)

    def chains(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the table of all objects (`COLUMNS`), and for each row the number of its chain from 0."""
        table = pd.DataFrame(self._objects, columns=list(COLUMNS))
        first, second = np.array(self._edges, np.int64).reshape(-1, 2).T
        size = max(len(table), 1)
        graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(size, size))
        return table, connected_components(graph, directed=False)[1][:len(table)]

    def _distance(self, first: int, second: int) -> float:
        return (second - first) * (self.spacing[0] if self.spacing else 1.0)

    def _note(self, plane: _Plane, label: str, mask: np.ndarray, scores: Mapping[tuple[str, int], float]) -> np.ndarray:
        """Enter the objects of a mask, and return the row of every instance number, -1 where there is none."""
        pixels = np.flatnonzero(mask)
        numbers = np.ones(len(pixels), np.int64) if is_whole(label) else mask.ravel()[pixels].astype(np.int64)
        count = np.bincount(numbers)
        instances = np.flatnonzero(count)
        rows = np.full(len(count), -1)
        rows[instances] = len(self._objects) + np.arange(len(instances))
        first = np.zeros(len(count), np.int64)
        first[numbers[::-1]] = pixels[::-1]  # of equal numbers the last one written stays, the first pixel
        y, x = np.divmod(pixels, mask.shape[1])
        with np.errstate(invalid="ignore"):
            centre = np.bincount(numbers, y) / count, np.bincount(numbers, x) / count
        self._objects += [
            (label, plane.order, plane.index, i, int(count[i]), count[i] * self.pixel_area, int(first[i]),
             float(centre[0][i]), float(centre[1][i]), scores.get((label, i), math.nan))
            for i in instances.tolist()
        ]
        self._goes_on += [False] * len(instances)
        self._went_before += [False] * len(instances)
        return rows

    def _link(self, earlier: _Plane, plane: _Plane, *, is_gap: bool) -> None:
        labels = [label for label in plane.masks
                  if not is_whole(label) and self._has_objects(earlier, label) and self._has_objects(plane, label)]
        if not labels:
            return
        shift = axial_shift(earlier.masks, plane.masks, int(self.rule.reach / (self.spacing[1] if self.spacing else 1)))
        edges = []
        for label in labels:
            for a, b, common in overlaps(earlier.masks[label], plane.masks[label], shift):
                edge = int(earlier.rows[label][a]), int(plane.rows[label][b])
                smaller = min(self._objects[row][PIXELS] for row in edge)
                if is_gap:
                    is_open = not (self._goes_on[edge[0]] or self._went_before[edge[1]])
                    linked = is_open and common >= self.rule.gap_share * smaller
                else:
                    linked = common * self.pixel_area >= min(self.rule.min_overlap, smaller * self.pixel_area / 2)
                if linked:
                    edges.append(edge)
        for before, after in edges:
            self._goes_on[before] = self._went_before[after] = True
        self._edges += edges

    @staticmethod
    def _has_objects(plane: _Plane, label: str) -> bool:
        return len(plane.rows.get(label, ())) > 1


def axial_shift(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], reach: int) -> int:
    """Rows by which the objects of `after` lie deeper than those of `before`.

    The eye moves between two B-scans, and with it all that is in them: the
    shift of at most `reach` rows is taken at which the masks of all labels
    overlap most, the least one if that is not unique.
    """
    pairs = [(before[label] > 0, mask > 0) for label, mask in after.items() if label in before]
    pairs = [(a, b) for a, b in pairs if a.any() and b.any()]
    best, most = 0, -1
    reach = min(reach, min((len(a) for a, _ in pairs), default=1) - 1)  # a file may claim rows of a nanometre
    for shift in sorted(range(-reach, reach + 1), key=abs) if pairs else ():
        common = sum(int(np.count_nonzero(np.logical_and(*_aligned(a, b, shift)))) for a, b in pairs)
        if common > most:
            best, most = shift, common
    return best


def overlaps(before: np.ndarray, after: np.ndarray, shift: int = 0) -> Sequence[tuple[int, int, int]]:
    """Pairs of instances that overlap, and the pixels they share, after moving `before` down by `shift` rows."""
    a, b = _aligned(before, after, shift)
    both = (a > 0) & (b > 0)
    code, common = np.unique(a[both].astype(np.int64) << 32 | b[both].astype(np.int64), return_counts=True)
    return [(int(c >> 32), int(c & 0xFFFFFFFF), int(n)) for c, n in zip(code, common, strict=True)]


def _aligned(before: np.ndarray, after: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    height = before.shape[0]
    return before[max(0, -shift):height - max(0, shift)], after[max(0, shift):height - max(0, -shift)]
