"""Which slices of a volume to segment: all, the one in view, a range, or every n-th."""

from __future__ import annotations

from enum import StrEnum

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget


class Slices(StrEnum):
    """The choices, by the text that is shown."""

    ALL = "all slices"
    CURRENT = "the slice in view"
    RANGE = "a range"
    EVERY = "every n-th slice"


class SliceChoice(QWidget):
    """A combo box, and under it spin boxes that show where they are needed."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.mode = QComboBox()
        self.mode.addItems(list(Slices))
        self.first, self.last = QSpinBox(), QSpinBox()
        self._dash = QLabel("–")
        self.step = QSpinBox()
        self.step.setPrefix("every ")
        for box, tip in ((self.first, "First slice"), (self.last, "Last slice, included"),
                         (self.step, "Distance between the slices that are looked at; 1 takes all")):
            box.setToolTip(tip)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.mode)
        limits = QHBoxLayout()
        limits.addWidget(self.first, 1)
        limits.addWidget(self._dash)
        limits.addWidget(self.last, 1)
        layout.addLayout(limits)
        layout.addWidget(self.step)
        self.first.valueChanged.connect(lambda value: self.last.setMinimum(value))
        self.mode.currentTextChanged.connect(self._show_boxes)
        self.set_count(1)
        self._show_boxes()

    def set_count(self, n_slices: int) -> None:
        """Offer slices 0 to `n_slices` - 1, from the first to the last."""
        self.first.setRange(0, n_slices - 1)
        self.last.setRange(0, n_slices - 1)
        self.first.setValue(0)
        self.last.setValue(n_slices - 1)
        self.step.setRange(1, n_slices)

    def indices(self, current: int) -> list[int] | None:
        """Chosen slice numbers, or None for all of them."""
        match Slices(self.mode.currentText()):
            case Slices.ALL:
                return None
            case Slices.CURRENT:
                return [current]
            case Slices.RANGE:
                return list(range(self.first.value(), self.last.value() + 1, self.step.value()))
            case _:
                return list(range(0, self.last.maximum() + 1, self.step.value()))

    def needs_current(self) -> bool:
        """Whether the choice depends on the slice in view."""
        return self.mode.currentText() == Slices.CURRENT

    def _show_boxes(self) -> None:
        mode = self.mode.currentText()
        for widget in (self.first, self._dash, self.last):
            widget.setVisible(mode == Slices.RANGE)
        self.step.setVisible(mode in (Slices.RANGE, Slices.EVERY))
        if mode == Slices.EVERY and self.step.value() == 1:
            self.step.setValue(2)
