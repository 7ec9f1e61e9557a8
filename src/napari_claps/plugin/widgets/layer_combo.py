"""A combo box of the layers of one kind of one viewer, held by reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_claps.plugin.widgets.narrow_combo import NarrowCombo

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LayerCombo(NarrowCombo):
    """Choose a layer; follows layers that come, go, move and change their name.

    Parameters
    ----------
    viewer : ViewerModel
    accepts : callable
        Whether a layer is offered.
    nothing : str, optional
        A first entry that stands for no layer, and is chosen until the user chooses another one.
    missing : str
        What to do when there is no layer to offer.

    Signals
    -------
    layer_changed : Layer or None
        The choice is another layer now. A new name of the same layer is no change.
    """

    layer_changed = Signal(object)

    def __init__(self, viewer: ViewerModel, accepts: Callable[[Layer], bool], *, nothing: str = "",
                 missing: str = "Open an image first", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._accepts = accepts
        self._nothing = nothing
        self._missing = missing
        self._layers: list[Layer | None] = []
        self._layer: Layer | None = None
        for event in self._events():
            event.connect(self._refresh)
        self.currentIndexChanged.connect(self._choose)
        self._refresh()
        active = viewer.layers.selection.active
        if active in self._layers and not nothing:
            self.set_layer(active)

    def layer(self) -> Any:
        """The chosen layer, or None."""
        return self._layer

    def set_layer(self, layer: Layer | None) -> None:
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
        offered = [layer for layer in self._viewer.layers if self._accepts(layer)]
        self._watch_names(offered)
        if self._nothing:
            self._layers.insert(0, None)
        last = None if self._nothing or not offered else offered[-1]
        keep = self._layer if self._layer in offered else last
        self.blockSignals(True)
        self.clear()
        self.addItems([layer.name if layer is not None else self._nothing for layer in self._layers])
        if self._layers:
            self.setCurrentIndex(self._layers.index(keep))
        self.blockSignals(False)
        self._choose(self.currentIndex())

    def _watch_names(self, layers: list[Layer]) -> None:
        for layer in self._layers:
            if layer is not None:
                layer.events.name.disconnect(self._refresh)
        self._layers = list(layers)
        for layer in layers:
            layer.events.name.connect(self._refresh)

    def _choose(self, index: int) -> None:
        layer = self._layers[index] if 0 <= index < len(self._layers) else None
        self.setToolTip(layer.name if layer is not None else self._nothing or self._missing)
        if layer is not self._layer:
            self._layer = layer
            self.layer_changed.emit(layer)
