"""A combo box that leaves the dock as narrow as the user wants it."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget


class NarrowCombo(QComboBox):
    """Takes the room that there is; long entries are cut off, so a subclass says the whole in its tool tip."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
