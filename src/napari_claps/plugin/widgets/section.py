"""A part of a form under a title that folds and unfolds it."""

from __future__ import annotations

from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible

_STYLE = "text-align: left; border: none; outline: none; padding: 4px; background: transparent; font-weight: bold;"


class Section(QCollapsible):
    """Folded at first. superqt's, as magicgui has none.

    Parameters
    ----------
    title : str
    content : QWidget
        The native widget of a form.
    parent : QWidget, optional
    """

    def __init__(self, title: str, content: QWidget, parent: QWidget | None = None) -> None:
        # Its own arrows are painted once, in the colour that text had before the theme came.
        super().__init__(title, parent, expandedIcon=QIcon(), collapsedIcon=QIcon())
        self._title = title
        self.toggleButton().setStyleSheet(_STYLE)
        self.setDuration(0)
        self.setContent(content)
        self.collapse(animate=False)  # new content is shown until then
        if (layout := self.layout()) is not None:
            layout.setContentsMargins(0, 0, 0, 0)
        self.toggled.connect(self._point)
        self._point(False)

    def _point(self, unfolded: bool) -> None:
        self.setText(f"{'▾' if unfolded else '▸'} {self._title}")
