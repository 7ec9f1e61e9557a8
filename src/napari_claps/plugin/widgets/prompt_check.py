"""What the prompt check of a slice found, in a window of its own."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_claps.results.prompt_check import prompt_check_picture
from napari_claps.trust.prompt_check import PromptCheck

GOOD = "No warning: in this slice the masks depend on the text."


class PromptCheckDialog(QDialog):
    """The warnings of a check, and how far the masks of true and wrong texts agree."""

    def __init__(self, check: PromptCheck, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Prompt check of {check.source}, slice {check.slice_index}")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.verdict = QLabel("\n".join(check.warnings) or GOOD)
        self.verdict.setWordWrap(True)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        if check.warnings:
            self.verdict.setStyleSheet("color: #e69f00;")
        self.picture = QLabel()
        self.picture.setPixmap(_pixmap(prompt_check_picture(check)))
        area = QScrollArea()
        area.setWidget(self.picture)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self.verdict)
        layout.addWidget(area, 1)
        layout.addWidget(buttons)
        size = self.picture.sizeHint()
        self.resize(min(size.width(), 1100) + 50, min(size.height(), 700) + 150)


def _pixmap(picture: np.ndarray) -> QPixmap:
    """A (y, x, 3) uint8 picture for Qt, which keeps a copy."""
    height, width, _ = picture.shape
    data = picture.tobytes()
    return QPixmap.fromImage(QImage(data, width, height, 3 * width, QImage.Format.Format_RGB888).copy())
