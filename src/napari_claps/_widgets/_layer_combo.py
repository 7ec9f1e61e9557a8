"""A combo box of the image layers of one viewer, held by reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LayerCombo(QComboBox):
    """Choose an image layer; follows layers that come, go, move and change their name.

    Signals
    -------
    layer_changed : Image or None
        The choice is another layer now. A new name of the same layer is no change.
    """

    layer_changed = Signal(object)

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers: list[Image] = []
        self._layer: Image | None = None
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for event in self._events():
            event.connect(self._refresh)
        self.currentIndexChanged.connect(self._choose)
        self._refresh()
        active = viewer.layers.selection.active
        if isinstance(active, Image):
            self.set_layer(active)

    def layer(self) -> Image | None:
        """The chosen layer."""
        return self._layer

    def set_layer(self, layer: Image) -> None:
        """Choose `layer`."""
        self.setCurrentIndex(self._layers.index(layer))

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        for event in self._events():
            event.disconnect(self._refresh)
        self._watch_names([])

    def _events(self) -> list[Any]:
        events = self._viewer.layers.events
        return [events.inserted, events.removed, events.reordered]

    def _refresh(self, event: Any = None) -> None:
        if not isalive(self):  # the dock widget was closed, the viewer was not
            self.disconnect_viewer()
            return
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        self._watch_names(images)
        keep = self._layer if self._layer in images else (images[-1] if images else None)
        self.blockSignals(True)
        self.clear()
        self.addItems([layer.name for layer in images])
        if keep is not None:
            self.setCurrentIndex(images.index(keep))
        self.blockSignals(False)
        self._choose(self.currentIndex())

    def _watch_names(self, images: list[Image]) -> None:
        for layer in self._layers:
            layer.events.name.disconnect(self._refresh)
        self._layers = images
        for layer in images:
            layer.events.name.connect(self._refresh)

    def _choose(self, index: int) -> None:
        layer = self._layers[index] if 0 <= index < len(self._layers) else None
        self.setToolTip(layer.name if layer is not None else "Open an image first")
        if layer is not self._layer:
            self._layer = layer
            self.layer_changed.emit(layer)
