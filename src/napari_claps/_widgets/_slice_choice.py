"""Which slices of a volume to segment: all, the one in view, or a range."""

from __future__ import annotations

from enum import StrEnum

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget


class Slices(StrEnum):
    """The three choices, by the text that is shown."""

    ALL = "all slices"
    CURRENT = "the slice in view"
    RANGE = "a range"


class SliceChoice(QWidget):
    """A combo box, and under it two spin boxes that show for a range only."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.mode = QComboBox()
        self.mode.addItems(list(Slices))
        self.first, self.last = QSpinBox(), QSpinBox()
        self._dash = QLabel("–")
        for box, tip in ((self.first, "First slice"), (self.last, "Last slice, included")):
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
        self.first.valueChanged.connect(lambda value: self.last.setMinimum(value))
        self.mode.currentTextChanged.connect(self._show_range)
        self.set_count(1)
        self._show_range()

    def set_count(self, n_slices: int) -> None:
        """Offer slices 0 to `n_slices` - 1, from the first to the last."""
        self.first.setRange(0, n_slices - 1)
        self.last.setRange(0, n_slices - 1)
        self.first.setValue(0)
        self.last.setValue(n_slices - 1)

    def indices(self, current: int) -> list[int] | None:
        """Chosen slice numbers, or None for all of them."""
        match Slices(self.mode.currentText()):
            case Slices.ALL:
                return None
            case Slices.CURRENT:
                return [current]
            case _:
                return list(range(self.first.value(), self.last.value() + 1))

    def needs_current(self) -> bool:
        """Whether the choice depends on the slice in view."""
        return self.mode.currentText() == Slices.CURRENT

    def _show_range(self) -> None:
        is_range = self.mode.currentText() == Slices.RANGE
        for widget in (self.first, self._dash, self.last):
            widget.setVisible(is_range)
