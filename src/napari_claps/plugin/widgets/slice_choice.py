"""Which slices of a volume to segment: all, the one in view, a range, or every n-th."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from magicgui.widgets import Container, SpinBox
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_claps.plugin.widgets.choice import Choice


class Slices(StrEnum):
    """The choices, by the text that is shown."""

    ALL = "all slices"
    CURRENT = "the slice in view"
    RANGE = "a range"
    EVERY = "every n-th slice"


class SliceChoice(Container):
    """A choice, and under it spin boxes that show where they are needed.

    ``mode``, ``first``, ``last`` and ``step`` are the Qt widgets of its fields.
    """

    def __init__(self, **options: Any) -> None:
        self._which = Choice(name="which", choices=list(Slices), tooltip="Which slices are looked at")
        self._from = SpinBox(name="from_slice", min=0, max=0, step=1, tooltip="First slice")
        self._to = SpinBox(name="to_slice", min=0, max=0, step=1, tooltip="Last slice, included")
        self._every = SpinBox(name="every", min=1, max=1, step=1,
                              tooltip="Distance between the slices that are looked at; 1 takes all")
        super().__init__(widgets=[self._which, self._from, self._to, self._every], labels=False, **options)
        self._limits = _row(self._from.native, QLabel("–"), self._to.native)
        self._distance = _row(QLabel("every"), self._every.native)
        layout = self.native.layout()
        layout.addWidget(self._limits)
        layout.addWidget(self._distance)
        layout.setSpacing(4)
        self.margins = (0, 0, 0, 0)
        self.mode, self.step = self._which.native, self._every.native
        self.first, self.last = self._from.native, self._to.native
        self._from.changed.connect(self._push_last)
        self._which.changed.connect(self._show_boxes)
        self._show_boxes()

    def set_count(self, n_slices: int) -> None:
        """Offer slices 0 to `n_slices` - 1, from the first to the last."""
        self._to.min = self._from.value = 0
        for box in (self._from, self._to):
            box.max = n_slices - 1
        self._to.value = n_slices - 1
        self._every.max = n_slices

    def indices(self, current: int) -> list[int] | None:
        """Chosen slice numbers, or None for all of them."""
        step = int(self._every.value)
        match Slices(self._which.value):
            case Slices.ALL:
                return None
            case Slices.CURRENT:
                return [current]
            case Slices.RANGE:
                return list(range(int(self._from.value), int(self._to.value) + 1, step))
            case _:
                return list(range(0, int(self._to.max) + 1, step))

    def needs_current(self) -> bool:
        """Whether the choice depends on the slice in view."""
        return self._which.value == Slices.CURRENT

    def _push_last(self, first: int) -> None:
        self._to.min = first

    def _show_boxes(self) -> None:
        which = self._which.value
        self._limits.setVisible(which == Slices.RANGE)
        self._distance.setVisible(which in (Slices.RANGE, Slices.EVERY))
        if which == Slices.EVERY and self._every.value == 1 and self._every.max > 1:
            self._every.value = 2


def _row(*widgets: QWidget) -> QWidget:
    """Widgets beside each other; those that are no label share the room."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget, 0 if isinstance(widget, QLabel) else 1)
    return row
