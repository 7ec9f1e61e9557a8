"""The layers of one run: filled slice by slice, renumbered at the end, on the main thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Shapes

from napari_claps._layers import (
    KEY,
    LayerSource,
    box_colours,
    box_corners,
    box_features,
    box_style,
    mask_colormap,
    plain,
    spatial_metadata,
)
from napari_claps.types import Box, BoxSource, SliceResult
from napari_claps.vocabulary import TARGETS

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_claps._engine import Linked


class ResultLayers:
    """One Labels layer per target and one Shapes layer of boxes, made at the first result.

    Where the results have an uncertainty, there is an Image layer of it for every target, too.

    Parameters
    ----------
    viewer : ViewerModel
    image : Image
        The layer that is segmented; what places it in the world is copied.
    source : LayerSource
        What was read from it.
    number : int
        Number of this run over the image; from 2 on it is part of the names.
    provenance : dict
        Plain JSON types, kept with every layer.
    """

    def __init__(
        self, viewer: ViewerModel, image: Image, source: LayerSource, *, number: int, provenance: dict[str, Any]
    ) -> None:
        self.image = image
        self.number = number
        self.masks: dict[str, Labels] = {}
        self.uncertainty: dict[str, Image] = {}
        self.boxes: Shapes | None = None
        self.found: dict[str, int] = {}
        """Number of slices in which each target was found."""
        self.objects: dict[str, int] = {}
        """Number of objects of each target in the volume; empty unless they are linked."""
        self.n_doubts = 0
        self._viewer = viewer
        self._place = spatial_metadata(image)
        self._shape = source.shape
        self.n_slices = self._shape[0] if len(self._shape) == 3 else 1
        self._voxel = None if source.spacing is None else float(np.prod(source.spacing))
        self._provenance = provenance
        self._tables: dict[str, dict[int, list[int]]] = {}
        self._new_boxes: list[Box] = []
        self._changed: set[str] = set()
        self._first_label = ""

    def layers(self) -> list[Image | Labels | Shapes]:
        """Layers of this run that are still in the viewer."""
        made = [*self.uncertainty.values(), *self.masks.values(), *([self.boxes] if self.boxes is not None else [])]
        return [layer for layer in made if layer in self._viewer.layers]

    def is_wanted(self) -> bool:
        """Whether the image is still in the viewer, and something of the results if there are any."""
        return self.image in self._viewer.layers and (self.boxes is None or bool(self.layers()))

    def add(self, result: SliceResult) -> None:
        """Take in one slice; `flush` shows it."""
        if self.boxes is None:
            self._make(result)
        for label, mask in result.masks.items():
            layer = self.masks[label]
            if layer in self._viewer.layers:
                self._plane(layer, result.index)[...] = mask
                self._count(label, mask)
                self._changed.add(label)
        for label, entropy in result.uncertainty.items():
            layer = self.uncertainty[label]
            if layer in self._viewer.layers:
                self._plane(layer, result.index)[...] = entropy
                self._changed.add(label)
        self._new_boxes += result.boxes
        self._note_presence(result)

    def flush(self) -> None:
        """Show what was taken in since the last time."""
        for label in self._changed:
            layer = self.masks[label]
            if layer in self._viewer.layers:
                layer.refresh()
                layer.features = self._features(label)
            if self.uncertainty.get(label) in self._viewer.layers:
                self.uncertainty[label].refresh()
        self._changed.clear()
        if self._new_boxes and self.boxes in self._viewer.layers:
            self._show_boxes(self._new_boxes)
        self._new_boxes = []

    def renumber(self, linked: Linked) -> Iterator[None]:
        """Give the objects the numbers of the volume, a plane at a time; what was painted meanwhile stays."""
        links = linked.links
        self._tables = {label: {} for label in self.masks}
        self.found = dict.fromkeys(self.masks, 0)
        for label, index in links.objects[["label", "slice"]].drop_duplicates().itertuples(index=False):
            layer = self.masks[label]
            if layer in self._viewer.layers:
                plane = self._plane(layer, index)
                plane[...] = links.relabel(label, index, plane)
                self._count(label, plane)
                self.found[label] += bool(plane.any())
                self._changed.add(label)
                yield
        self.objects = {label: len(self._tables[label]) for label in self.masks}
        self.n_doubts = len(linked.doubts)
        self._renumber_boxes(linked)
        self.flush()
        for label, layer in self.masks.items():
            doubts = [plain(dataclasses.asdict(d)) for d in linked.doubts if d.label == label]
            known = layer.metadata[KEY] | {"linked": True, "doubts": doubts}
            layer.metadata = {**layer.metadata, KEY: known}  # set, not changed in place: who lists the doubts is told

    def _renumber_boxes(self, linked: Linked) -> None:
        """Give the boxes numbers and scores of the volume, and take away those of objects that are no more."""
        layer = self.boxes
        if layer not in self._viewer.layers:
            return
        table, gone = layer.features.copy(), set()
        for row, found in enumerate(table.itertuples(index=False)):
            if found.source == BoxSource.USER:
                continue
            box = Box(0, 0, 0, 0, found.label, found.score, int(found.slice), int(found.instance))
            for kept in linked.links.relabel_boxes([box]):
                table.loc[row, ["instance", "score"]] = kept.instance, kept.score
                break
            else:
                gone.add(row)
        layer.features = table
        if gone:
            layer.selected_data = gone
            layer.remove_selected()

    def _plane(self, layer: Image | Labels, index: int) -> np.ndarray:
        """The pixels of a slice, to be written to."""
        return layer.data[index] if len(self._shape) == 3 else layer.data

    def _make(self, result: SliceResult) -> None:
        suffix = f" (run {self.number})" if self.number > 1 else ""
        for prompt in result.prompts:
            label = prompt.label
            name = TARGETS[label].name if label in TARGETS else label
            self.found[label] = 0
            self._tables[label] = {}
            self.masks[label] = Labels(
                np.zeros(self._shape, np.uint16), name=f"{name}{suffix}", opacity=0.6,
                colormap=mask_colormap(label), features=self._features(label),
                metadata=self._metadata(result, "masks", label=label, prompt=prompt.text, target=prompt.target,
                                        presence={}),
                **self._place,
            )
        for label in result.uncertainty:
            self.uncertainty[label] = self._uncertainty_layer(result, label, suffix)
        ndim = len(self._shape)
        self.boxes = Shapes(
            None, ndim=ndim, name=f"boxes{suffix}", features=box_features(()), **box_style(self._shape[-2:]),
            metadata=self._metadata(result, "boxes", labels=[p.label for p in result.prompts]), **self._place,
        )
        for layer in (*self.uncertainty.values(), *self.masks.values(), self.boxes):
            self._viewer.add_layer(layer)
        self._first_label = result.prompts[0].label
        self._default_box()

    def _uncertainty_layer(self, result: SliceResult, label: str, suffix: str) -> Image:
        """Entropy per pixel in bits, NaN in slices that are not done.

        Half precision is finer than any estimate of it, and no larger than the masks.
        """
        name = TARGETS[label].name if label in TARGETS else label
        return Image(
            np.full(self._shape, np.nan, np.float16), name=f"uncertainty {name}{suffix}", contrast_limits=(0, 1),
            colormap="inferno", blending="additive", visible=not self.uncertainty,
            metadata=self._metadata(result, "uncertainty", label=label, unit="bit"), **self._place,
        )

    def _metadata(self, result: SliceResult, content: str, **more: Any) -> dict[str, Any]:
        guess = result.modality
        modality = {"modality": str(guess.modality), "modality_probability": guess.probability,
                    "modality_decided_by": guess.decided_by}
        return {KEY: {"content": content, **self._provenance, **modality, **more}}

    def _note_presence(self, result: SliceResult) -> None:
        for label, mask in result.masks.items():
            self.found[label] += bool(mask.any())
            score = result.presence.get(label)
            if score is not None:
                self.masks[label].metadata[KEY]["presence"][str(result.index)] = round(float(score), 4)

    def _count(self, label: str, mask: np.ndarray) -> None:
        table = self._tables[label]
        counts = np.bincount(mask.ravel())
        for instance in np.flatnonzero(counts[1:]) + 1:
            row = table.setdefault(int(instance), [0, 0])
            row[0] += int(counts[instance])
            row[1] += 1

    def _features(self, label: str) -> pd.DataFrame:
        table = sorted(self._tables[label].items())
        name = TARGETS[label].name if label in TARGETS else label
        columns: dict[str, Any] = {
            "index": [instance for instance, _ in table],
            "target": [label] * len(table),
            "name": [name] * len(table),
            "instance": [instance for instance, _ in table],
            "pixels": [pixels for _, (pixels, _) in table],
        }
        if len(self._shape) == 3:
            columns["slices"] = [slices for _, (_, slices) in table]
        if self._voxel is not None:
            measure = "volume_mm3" if len(self._shape) == 3 else "area_mm2"
            columns[measure] = [pixels * self._voxel for pixels in columns["pixels"]]
        return pd.DataFrame(columns)

    def _show_boxes(self, boxes: list[Box]) -> None:
        layer = self.boxes
        is_volume = len(self._shape) == 3
        # Shapes that the user drew meanwhile keep their rows: new rows come last, as new shapes do.
        table = pd.concat([layer.features, box_features(boxes)], ignore_index=True)
        layer.add([box_corners(box, is_volume=is_volume) for box in boxes], shape_type="rectangle",
                  edge_color=box_colours(boxes), face_color="transparent")
        layer.features = table
        self._default_box()

    def _default_box(self) -> None:
        """A box that the user draws is certain, and of the first target until told otherwise."""
        self.boxes.feature_defaults = {"label": self._first_label, "score": 1.0, "slice": 0, "source": "user",
                                       "instance": 0}
