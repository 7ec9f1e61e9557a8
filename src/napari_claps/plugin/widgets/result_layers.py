"""The layers of one run: filled slice by slice, renumbered at the end, on the main thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Layer, Shapes

from napari_claps.plugin.doubt_layers import plain_doubts, plain_violation
from napari_claps.plugin.layers import (
    KEY,
    LayerSource,
    box_colours,
    box_corners,
    box_features,
    box_style,
    plain,
    spatial_metadata,
)
from napari_claps.plugin.widgets.plane_layers import band_layer, mask_layer, uncertainty_layer
from napari_claps.trust.anatomy import Violation
from napari_claps.types import Box, BoxSource, SliceResult
from napari_claps.volumes.numbering import PLANES, VolumeLinks
from napari_claps.words.appearance import shown_name

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_claps.results.findings import Findings

BANDS = ("outer", "inner")
"""Fields of a slice that hold the masks of a coverage, the lowest layer first."""


class ResultLayers:
    """One Labels layer per target and one Shapes layer of boxes, made at the first result.

    Where the results have an uncertainty, or inner and outer masks, there are layers of these, too.

    Parameters
    ----------
    viewer : ViewerModel
    image : Image
        The layer that is segmented; what places it in the world is copied.
    source : LayerSource
        What was read from it.
    number : int
        Number of this run over the image; from 2 on it is part of the names.
    known : dict
        Plain JSON types, kept with every layer; the provenance joins them at the end.
    """

    def __init__(
        self, viewer: ViewerModel, image: Image, source: LayerSource, *, number: int, known: dict[str, Any]
    ) -> None:
        self.image = image
        self.number = number
        self.planes: dict[str, dict[str, Image | Labels]] = {content: {} for content in PLANES}
        """Layers of (z, y, x) or (y, x) by field of the slice and label."""
        self.boxes: Shapes | None = None
        self.found: dict[str, int] = {}
        """Number of slices in which each target was found."""
        self.objects: dict[str, int] = {}
        """Number of objects of each target in the volume; empty unless they are linked."""
        self.violations: list[dict[str, Any]] = []
        """What cannot be in an eye, in plain types."""
        self.n_doubts = 0
        self.findings: Findings | None = None
        """What belongs to the whole, once the run has come to its end."""
        self._viewer = viewer
        self._place = spatial_metadata(image)
        self._shape = source.shape
        self.n_slices = self._shape[0] if len(self._shape) == 3 else 1
        self._voxel = None if source.spacing is None else float(np.prod(source.spacing))
        self._known = known
        self._tables: dict[str, dict[int, list[int]]] = {}
        self._new_boxes: list[Box] = []
        self._changed: set[tuple[str, str]] = set()
        self._unlisted: set[str] = set()
        self._first_label = ""

    @property
    def masks(self) -> dict[str, Labels]:
        """The masks layer of each target."""
        return self.planes["masks"]

    def layers(self) -> list[Image | Labels | Shapes]:
        """Layers of this run that are still in the viewer."""
        made = [layer for content in ("uncertainty", "masks", *BANDS) for layer in self.planes[content].values()]
        return [layer for layer in (*made, self.boxes) if layer in self._viewer.layers]

    def is_wanted(self) -> bool:
        """Whether the image is still in the viewer, and something of the results if there are any."""
        return self.image in self._viewer.layers and (self.boxes is None or bool(self.layers()))

    def add(self, result: SliceResult, violations: Sequence[Violation] = ()) -> None:
        """Take in one slice; `flush` shows it."""
        if self.boxes is None:
            self._make(result)
        for content in PLANES:
            for label, pixels in getattr(result, content).items():
                if (plane := self._plane(content, label, result.index)) is not None:
                    plane[...] = pixels
                    self._changed.add((content, label))
                    if content == "masks":
                        self._count(label, pixels)
        is_volume = len(self._shape) == 3
        self.violations += [plain_violation(v, result.masks[v.label], is_volume=is_volume) for v in violations]
        self._unlisted |= {v.label for v in violations}
        self._new_boxes += result.boxes
        self._note_presence(result)

    def flush(self) -> None:
        """Show what was taken in since the last time."""
        for content, label in self._changed:
            layer = self.planes[content][label]
            if layer in self._viewer.layers:
                layer.refresh(extent=False)
                if content == "masks":
                    layer.features = self._features(label)
        self._changed.clear()
        if self._new_boxes and self.boxes is not None and self.boxes in self._viewer.layers:
            self._show_boxes(self.boxes, self._new_boxes)
        self._new_boxes = []
        for label in self._unlisted:
            _know(self.masks[label], violations=[found for found in self.violations if found["label"] == label])
        self._unlisted.clear()

    def complete(self, findings: Findings) -> Iterator[None]:
        """Take what belongs to the whole; objects get the numbers of the volume, a plane at a time.

        What was painted meanwhile stays.
        """
        self.findings = findings
        if findings.links is not None:
            yield from self._renumber(findings.links)
        is_volume = len(self._shape) == 3
        self.violations = [plain_violation(v, plane, is_volume=is_volume) for v in findings.violations
                           if (plane := self._plane("masks", v.label, v.slice_index)) is not None]
        self._unlisted |= set(self.masks)
        self.flush()
        provenance = plain(findings.provenance)
        for layer in self.layers():
            _know(layer, provenance=provenance)
        if findings.doubts is not None:
            self.n_doubts = len(findings.doubts)
            for label, layer in self.masks.items():
                doubts = plain_doubts(doubt for doubt in findings.doubts if doubt.label == label)
                _know(layer, linked=True, doubts=doubts)

    def _renumber(self, links: VolumeLinks) -> Iterator[None]:
        self._tables = {label: {} for label in self.masks}
        here = [label for label, layer in self.masks.items() if layer in self._viewer.layers]
        self.found |= dict.fromkeys(here, 0)  # of a layer that was deleted nothing is known beyond the single slices
        for label, index in links.objects[["label", "slice"]].drop_duplicates().itertuples(index=False):
            if (plane := self._plane("masks", label, index)) is not None:
                before = plane > 0
                plane[...] = links.relabel(label, index, plane)
                self._take_from_inner(label, index, before & (plane == 0))
                self._count(label, plane)
                self.found[label] += bool(plane.any())
                self._changed.add(("masks", label))
                yield
        self.objects = {label: len(self._tables[label]) for label in here}
        self._renumber_boxes(links)

    def _take_from_inner(self, label: str, index: int, gone: np.ndarray) -> None:
        """What was removed from a mask is not sure."""
        if gone.any() and (plane := self._plane("inner", label, index)) is not None:
            plane[gone] = 0
            self._changed.add(("inner", label))

    def _renumber_boxes(self, links: VolumeLinks) -> None:
        """Give the boxes numbers and scores of the volume, and take away those of objects that are no more."""
        layer = self.boxes
        if layer is None or layer not in self._viewer.layers:
            return
        table, gone = layer.features, set()
        instances, scores = table["instance"].tolist(), table["score"].tolist()
        for row, found in enumerate(table.itertuples(index=False)):
            if found.source == BoxSource.USER:
                continue
            box = Box(0, 0, 0, 0, found.label, found.score, int(found.slice), int(found.instance))
            for kept in links.relabel_boxes([box]):
                instances[row], scores[row] = kept.instance, kept.score
                break
            else:
                gone.add(row)
        layer.features = table.assign(instance=instances, score=scores)
        if gone:
            layer.selected_data = gone
            layer.remove_selected()

    def _plane(self, content: str, label: str, index: int) -> np.ndarray | None:
        """The pixels of a slice, to be written to; None if there is no such layer any more."""
        layer = self.planes[content].get(label)
        if layer is None or layer not in self._viewer.layers:
            return None
        return layer.data[index] if len(self._shape) == 3 else layer.data

    def _make(self, result: SliceResult) -> None:
        suffix = f" (run {self.number})" if self.number > 1 else ""
        for prompt in result.prompts:
            label = prompt.label
            self.found[label] = 0
            self._tables[label] = {}
            words = {"prompt": prompt.text, "target": prompt.target}
            self.masks[label] = mask_layer(
                label, self._shape, suffix=suffix, features=self._features(label),
                metadata=self._metadata(result, "masks", label=label, presence={}, **words), **self._place)
            for which in BANDS:
                if label in getattr(result, which):
                    # Its label is its own: saved beside the mask it must not be taken for it.
                    self.planes[which][label] = band_layer(
                        label, which, self._shape, suffix=suffix, metadata=self._metadata(
                            result, which, label=f"{label} {which}", presence={}, **words), **self._place)
        for label in result.uncertainty:
            self.planes["uncertainty"][label] = uncertainty_layer(
                label, self._shape, suffix=suffix, visible=not self.planes["uncertainty"],
                metadata=self._metadata(result, "uncertainty", label=label, unit="bit"), **self._place)
        self.boxes = Shapes(
            None, ndim=len(self._shape), name=f"boxes{suffix}", features=box_features(()),
            **box_style((self._shape[-2], self._shape[-1])),
            metadata=self._metadata(result, "boxes", labels=[p.label for p in result.prompts]), **self._place,
        )
        for content in ("uncertainty", "masks", *BANDS):
            for layer in self.planes[content].values():
                self._viewer.add_layer(layer)
        self._viewer.add_layer(self.boxes)
        self._first_label = result.prompts[0].label
        self._default_box(self.boxes)

    def _metadata(self, result: SliceResult, content: str, **more: Any) -> dict[str, Any]:
        guess = result.modality
        modality = {"modality": str(guess.modality), "modality_probability": guess.probability,
                    "modality_decided_by": guess.decided_by}
        return {KEY: {"content": content, **self._known, **modality, **more}}

    def _note_presence(self, result: SliceResult) -> None:
        """Keep the scores; the slices that have one were looked at."""
        for label, mask in result.masks.items():
            self.found[label] += bool(mask.any())
            score = result.presence.get(label)
            if score is None:
                continue
            for content in ("masks", *BANDS):
                if label in self.planes[content]:
                    known = self.planes[content][label].metadata[KEY]
                    known["presence"][str(result.index)] = round(float(score), 4)

    def _count(self, label: str, mask: np.ndarray) -> None:
        table = self._tables[label]
        counts = np.bincount(mask.ravel())
        for instance in np.flatnonzero(counts[1:]) + 1:
            row = table.setdefault(int(instance), [0, 0])
            row[0] += int(counts[instance])
            row[1] += 1

    def _features(self, label: str) -> pd.DataFrame:
        table = sorted(self._tables[label].items())
        columns: dict[str, Any] = {
            "index": [instance for instance, _ in table],
            "target": [label] * len(table),
            "name": [shown_name(label)] * len(table),
            "instance": [instance for instance, _ in table],
            "pixels": [pixels for _, (pixels, _) in table],
        }
        if len(self._shape) == 3:
            columns["slices"] = [slices for _, (_, slices) in table]
        if self._voxel is not None:
            measure = "volume_mm3" if len(self._shape) == 3 else "area_mm2"
            columns[measure] = [pixels * self._voxel for pixels in columns["pixels"]]
        return pd.DataFrame(columns)

    def _show_boxes(self, layer: Shapes, boxes: list[Box]) -> None:
        is_volume = len(self._shape) == 3
        # Shapes that the user drew meanwhile keep their rows: new rows come last, as new shapes do.
        table = pd.concat([layer.features, box_features(boxes)], ignore_index=True)
        layer.add([box_corners(box, is_volume=is_volume) for box in boxes], shape_type="rectangle",
                  edge_color=box_colours(boxes), face_color="transparent")
        layer.features = table
        self._default_box(layer)

    def _default_box(self, layer: Shapes) -> None:
        """A box that the user draws is certain, and of the first target until told otherwise."""
        layer.feature_defaults = {"label": self._first_label, "score": 1.0, "slice": 0, "source": "user", "instance": 0}


def _know(layer: Layer, **facts: Any) -> None:
    """Add to what we know of a layer; set, not changed in place, so that who lists the places is told."""
    layer.metadata = {**layer.metadata, KEY: layer.metadata[KEY] | facts}
