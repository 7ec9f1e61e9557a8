"""A choice of the layers of one kind of one viewer, held by reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.layers import Layer

from napari_claps.plugin.widgets.choice import Choice, Entries

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LayerCombo(Choice):
    """Choose a layer; in a form that follows the viewer the choice stays, whatever happens to other layers and names.

    The layers are those of the viewer that is given. napari's own choices for
    layer types look for a viewer among the parents of the widget: before it is
    docked they find the one that was used last, which may be another.
    `changed` tells of another layer; a new name of the same layer is no change.

    Parameters
    ----------
    viewer : ViewerModel
    kind : type of Layer
    accepts : callable, optional
        Which of these layers are offered; all by default.
    nothing : str, optional
        A first entry that stands for no layer, and is chosen until the user chooses another one.
    missing : str
        What to do when there is no layer to offer.
    **options
        Those of a magicgui widget: ``name``, ``label``, ``tooltip`` …
    """

    def __init__(self, viewer: ViewerModel, kind: type[Layer], accepts: Callable[[Any], bool] | None = None, *,
                 nothing: str = "", missing: str = "Open an image first", **options: Any) -> None:
        self._viewer = viewer
        self._kind = kind
        self._accepts = accepts
        self._missing = missing
        self._tip = options.pop("tooltip", "")
        super().__init__(choices=type(self)._layers, nullable=bool(nothing), nothing=nothing, annotation=kind,
                         **options)
        active = viewer.layers.selection.active
        if active in self.choices and not nothing:
            self.value = active

    def layer(self) -> Any:
        """The chosen layer, or None."""
        return self.value

    def set_layer(self, layer: Layer | None) -> None:
        """Choose `layer`."""
        self.value = layer

    def settle(self, before: Any) -> Any:
        """The newest layer, if the one before is gone and there must be one."""
        return before if before in self.choices else self.choices[0 if self._nullable else -1]

    def _layers(self) -> Entries:
        return [(layer.name, layer) for layer in self._viewer.layers
                if isinstance(layer, self._kind) and (self._accepts is None or self._accepts(layer))]

    def _describe(self, *_: Any) -> None:
        self.tooltip = "\n".join(filter(None, (self.current_choice or self._missing, self._tip)))
