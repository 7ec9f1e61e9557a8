"""En-face maps of an OCT volume: projections and thickness, as new Image layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.viewer import Viewer
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_claps.errors import ClapsError, InputError
from napari_claps.plugin.layers import KEY, spacing_of
from napari_claps.plugin.widgets.choice import Choice, Entries
from napari_claps.plugin.widgets.error_text import report
from napari_claps.plugin.widgets.fields import make_form
from napari_claps.plugin.widgets.layer_combo import LayerCombo
from napari_claps.plugin.widgets.result_layers import BANDS
from napari_claps.plugin.widgets.surfaces import surfaces_of
from napari_claps.plugin.worker import Failure, start_work
from napari_claps.volumes.enface import EnFace, Projection, project, thickness_map

CONTENT = "en-face"
"""What the layers of this widget are, in their metadata."""

MAPS = {"mean projection": Projection.MEAN, "maximum projection": Projection.MAX, "thickness": None}
"""What can be made; None is no projection."""

GAP = 0.05
"""Space between the B-scan and the map under it, as part of the height of the B-scan."""


class EnFaceWidget(QWidget):
    """Make projections of a volume, whole or between two surfaces, and thickness maps of targets.

    A map is shown under the B-scans, column by column below its A-scans.

    Parameters
    ----------
    napari_viewer : Viewer
    threads : bool
        False does all work in the calling thread, for tests and debugging.
    """

    def __init__(self, napari_viewer: Viewer, *, threads: bool = True) -> None:
        super().__init__()
        self._viewer: ViewerModel = napari_viewer
        self._threads = threads
        self._map = Choice(name="map", label="Map", choices=list(MAPS),
                           tooltip="Grey values between two surfaces, or how thick a target is")
        self.map_combo = self._map.native
        self.volume_combo = LayerCombo(napari_viewer, Image, _is_volume, missing="Open an OCT volume first",
                                       name="volume", label="Volume")
        self.top_combo = Choice(name="top", label="From", choices=self._surfaces, nullable=True,
                                nothing="top of the volume")
        self.bottom_combo = Choice(name="bottom", label="To", choices=self._surfaces, nullable=True,
                                   nothing="bottom of the volume")
        self.labels_combo = LayerCombo(napari_viewer, Labels, _is_labels_volume, missing="Segment a volume first",
                                       name="labels", label="Target")
        self.fields = make_form(self._map, self.volume_combo, self.top_combo, self.bottom_combo, self.labels_combo,
                                follow=napari_viewer)
        self.button = QPushButton("Make map")
        self.button.setToolTip("Adds the map as a new layer under the B-scans")
        self.status = QLabel()
        self.status.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(self.fields.native)
        layout.addWidget(self.button)
        layout.addWidget(self.status)
        layout.addStretch(1)
        for combo in (self.top_combo, self.bottom_combo):
            self.volume_combo.changed.connect(combo.reset_choices)
        self._map.changed.connect(self._show_fields)
        self.button.clicked.connect(self.make)
        self._show_fields()

    def make(self) -> None:
        """Make the map that is chosen."""
        if not self.button.isEnabled():
            return  # one at a time
        try:
            source, compute, options = self._thickness() if self._is_thickness() else self._projection()
        except ClapsError as error:
            self._fail(error)
            return
        self.button.setEnabled(False)
        self.status.setText("Working…")
        start_work(compute, parent=self, threads=self._threads,
                  on_result=lambda found: self._show(found, source, options))

    def choose_surfaces(self, top: str | None, bottom: str | None) -> None:
        """Choose surfaces by the names that are shown; None is the border of the volume."""
        for combo, name in ((self.top_combo, top), (self.bottom_combo, bottom)):
            combo.value = None if name is None else combo.get_choice(name)

    def _is_thickness(self) -> bool:
        return MAPS[self._map.value] is None

    def _projection(self) -> tuple[Image, Callable[[], EnFace], dict[str, Any]]:
        """Source, work and layer options of the projection that is chosen."""
        volume = self.volume_combo.layer()
        if volume is None:
            raise InputError("There is no grey volume (z, y, x). Open an OCT volume first.")
        how = MAPS[self._map.value] or Projection.MEAN  # it is no thickness
        top, bottom = self.top_combo.value, self.bottom_combo.value
        readers = [surface and surface.reader(volume) for surface in (top, bottom)]
        data = volume.data[0] if volume.multiscale else volume.data
        spacing = spacing_of(volume)

        def compute() -> EnFace:
            depths = [read and read() for read in readers]
            return project(data, spacing, how=how, top=depths[0], bottom=depths[1])

        names = [surface.name if surface else border for surface, border in ((top, "the top"), (bottom, "the bottom"))]
        between = f" {names[0]} to {names[1]}" if top or bottom else ""
        known = {"map": str(how), "top": top and top.name, "bottom": bottom and bottom.name}
        return volume, compute, {"name": f"{how} projection{between} of {volume.name}", "colormap": "gray",
                                 "metadata": {KEY: known}}

    def _thickness(self) -> tuple[Labels, Callable[[], EnFace], dict[str, Any]]:
        """Source, work and layer options of the thickness map that is chosen."""
        labels = self.labels_combo.layer()
        if labels is None:
            raise InputError("There is no Labels layer of a volume (z, y, x). Segment a volume first.")
        spacing, known = spacing_of(labels), labels.metadata.get(KEY) or {}
        data, slices, coverage = labels.data, None, None
        if known.get("content") in ("masks", *BANDS):  # ours: it says where was looked, elsewhere nothing is known
            slices = sorted(int(k) for k in known.get("presence", ())) or None
            # Of a layer of this run, or of one whose file was written before provenance was kept as a whole.
            region = (known.get("provenance") or known).get("region")
            if region:
                coverage = np.zeros((data.shape[0], data.shape[2]), bool)
                coverage[:, region[1]:region[3]] = True
        unit = "px" if spacing is None else "um"
        return labels, lambda: thickness_map(data, spacing, slices=slices, coverage=coverage), {
            "name": f"thickness {labels.name} ({unit})", "colormap": "viridis",
            "metadata": {KEY: {"map": "thickness", "label": known.get("label", labels.name)}},
        }

    def _show(self, found: EnFace | Failure, source: Layer, options: dict[str, Any]) -> None:
        self.button.setEnabled(True)
        if isinstance(found, Failure):
            self._fail(found.error)
            return
        known = np.isfinite(found.data)
        if not known.any():
            self._fail(InputError("The map is empty: no row lies between the two surfaces. Choose others, or exchange "
                                  "them: the upper one comes first."))
            return
        if source not in self._viewer.layers:
            self.status.setText(f"{source.name!r} was removed; there is no map.")
            return
        lowest = 0.0 if found.unit != "grey" else float(found.data[known].min())
        highest = max(float(found.data[known].max()), lowest + 1e-6 * max(1.0, abs(lowest)))  # a range has a width
        facts = {"content": CONTENT, "unit": found.unit, "source": source.name,
                 "spacing_mm": found.spacing and list(found.spacing), **options["metadata"][KEY]}
        layer = Image(found.data, **options | {"metadata": {KEY: facts}}, **self._place(source),
                      contrast_limits=(lowest, highest))
        if found.unit != "grey" and hasattr(layer, "colorbar"):  # napari from 0.9 on
            layer.colorbar.visible = True
        self._viewer.add_layer(layer)
        self._viewer.reset_view()
        unknown = 1 - known.mean()
        values = f"{np.mean(found.data[known]):.4g} {found.unit} on average" if found.unit != "grey" else "done"
        self.status.setText(f"{layer.name}: {values}" + (f"; {unknown:.0%} unknown" if unknown else ""))

    def _place(self, source: Layer) -> dict[str, Any]:
        """What puts a map (z, x) under the B-scans of its source, with the same x."""
        z, y, x = range(3)
        extent = source.extent.world
        bottom, gap = extent[1][y], GAP * (extent[1][y] - extent[0][y])
        for layer in self._viewer.layers:
            if layer.ndim == 2 and (layer.metadata.get(KEY) or {}).get("content") == CONTENT:
                bottom = max(bottom, layer.extent.world[1][0] + layer.scale[0] / 2)
        return {
            "scale": (source.scale[z], source.scale[x]), "units": (source.units[z], source.units[x]),
            "axis_labels": (source.axis_labels[z], source.axis_labels[x]),
            "translate": (bottom + gap + source.scale[z] / 2, extent[0][x]),
        }

    def _surfaces(self, _: Choice) -> Entries:
        volume = self.volume_combo.layer()
        return [(surface.name, surface) for surface in
                (surfaces_of(volume, self._viewer.layers) if volume is not None else ())]

    def _show_fields(self) -> None:
        for field in (self.volume_combo, self.top_combo, self.bottom_combo, self.labels_combo):
            field.visible = (field is self.labels_combo) == self._is_thickness()

    def _fail(self, error: Exception) -> None:
        self.status.setText(f"Failed. {report(error)}")


def _is_volume(layer: Image) -> bool:
    return layer.ndim == 3 and not layer.rgb


def _is_labels_volume(layer: Labels) -> bool:
    return layer.ndim == 3 and not layer.multiscale
