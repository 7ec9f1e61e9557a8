"""The list of doubtful places of the volumes in a viewer, and the way to each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Layer
from napari.viewer import Viewer
from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_claps._layers import KEY

COLUMNS = ("Slice", "Target", "Reason", "Doubt")
"""`Doubt` is the severity of a place from 0 to 1."""

NEXT, PREVIOUS = "F8", "Shift+F8"
_EMPTY = ("No doubtful places. They are listed here after a run over several B-scans of an OCT volume with linked "
          "objects.")
_ENTRY = Qt.ItemDataRole.UserRole


def jump_to(viewer: ViewerModel, layer: Layer, position: Sequence[float]) -> None:
    """Show the slice of a place, and bring the place to the middle of the canvas.

    Parameters
    ----------
    viewer : ViewerModel
    layer : Layer
        Whose pixels `position` counts.
    position : sequence of float
        (z, y, x).
    """
    world = layer.data_to_world(position)
    first = viewer.dims.ndim - layer.ndim  # a layer lies over the last axes of the viewer
    viewer.dims.set_point(range(first, viewer.dims.ndim), world)
    centre = [viewer.dims.point[axis] for axis in viewer.dims.displayed]
    scene = getattr(viewer, "scene", viewer)  # the camera moved there in napari 0.9
    scene.camera.center = (*[0.0] * (3 - len(centre)), *centre)


class DoubtsWidget(QWidget):
    """Go through the places of linked volumes that somebody should look at, the most severe first.

    They are kept with the masks layers, so that they come and go with them.

    Parameters
    ----------
    napari_viewer : Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer: ViewerModel = napari_viewer
        self._watched: list[Layer] = []
        self._entries: list[tuple[Layer, dict[str, Any]]] = []
        self.table = QTableWidget(0, len(COLUMNS))
        self.previous_button, self.next_button = QPushButton("Previous"), QPushButton("Next")
        self.status = QLabel()
        self._lay_out()
        for keys, step in ((NEXT, 1), (PREVIOUS, -1)):
            # Of the whole window, so that they work while the image has the focus.
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            shortcut.activated.connect(lambda step=step: self.step(step))
        self.previous_button.clicked.connect(lambda: self.step(-1))
        self.next_button.clicked.connect(lambda: self.step(1))
        self.table.currentCellChanged.connect(lambda row, *_: self._go(row))
        self.table.cellClicked.connect(lambda row, _: self._go(row))
        self.table.cellActivated.connect(lambda row, _: self._go(row))
        for event in self._events():
            event.connect(self._refresh)
        self._refresh()

    def step(self, by: int) -> None:
        """Go to the next place with 1, to the one before with -1; after the last comes the first."""
        count = self.table.rowCount()
        if count:
            row = self.table.currentRow()
            self.table.setCurrentCell((row + by) % count if row >= 0 else (0 if by > 0 else count - 1), 0)

    def _lay_out(self) -> None:
        table = self.table
        table.setHorizontalHeaderLabels(COLUMNS)
        table.verticalHeader().hide()
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTabKeyNavigation(False)
        header = table.horizontalHeader()
        header.setSortIndicator(COLUMNS.index("Doubt"), Qt.SortOrder.DescendingOrder)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for name in ("Target", "Reason"):  # cut off in a narrow dock; tool tip and status say the whole
            header.setSectionResizeMode(COLUMNS.index(name), QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(30)
        table.setWordWrap(False)
        table.setMinimumHeight(6 * table.verticalHeader().defaultSectionSize())
        self.previous_button.setToolTip(f"The place before ({PREVIOUS})")
        self.next_button.setToolTip(f"The next place ({NEXT})")
        self.status.setWordWrap(True)
        buttons = QHBoxLayout()
        buttons.addWidget(self.previous_button)
        buttons.addWidget(self.next_button)
        layout = QVBoxLayout(self)
        layout.addWidget(table)
        layout.addLayout(buttons)
        layout.addWidget(self.status)

    def _events(self) -> list[Any]:
        events = self._viewer.layers.events
        return [events.inserted, events.removed]

    def _watch(self, layers: list[Layer]) -> None:
        for layer in self._watched:
            layer.events.metadata.disconnect(self._refresh)
            layer.events.name.disconnect(self._refresh)
        self._watched = layers
        for layer in layers:
            layer.events.metadata.connect(self._refresh)
            layer.events.name.connect(self._refresh)

    def _refresh(self, event: Any = None) -> None:
        if not isalive(self):  # the dock widget was closed, the viewer was not
            for source in self._events():
                source.disconnect(self._refresh)
            self._watch([])
            return
        current, header = self._entry(self.table.currentRow()), self.table.horizontalHeader()
        order = header.sortIndicatorSection(), header.sortIndicatorOrder()
        self._watch(list(self._viewer.layers))
        entries = [(layer, doubt) for layer in self._watched for doubt in _doubts_of(layer)]
        self._entries = sorted(entries, key=lambda entry: -entry[1]["severity"])
        self.table.blockSignals(True)
        self.table.setSortingEnabled(False)
        self.table.clearContents()
        self.table.setRowCount(len(self._entries))
        for row, (layer, doubt) in enumerate(self._entries):
            severity = round(doubt["severity"], 2)
            for column, value in enumerate((doubt["slice_index"], layer.name, doubt["reason"], severity)):
                item = QTableWidgetItem()
                item.setData(Qt.ItemDataRole.DisplayRole, value)
                item.setData(_ENTRY, row)
                item.setToolTip(f"{layer.name}: {doubt['reason']}")
                self.table.setItem(row, column, item)
        self.table.setSortingEnabled(True)
        self.table.sortItems(*order)
        rows = range(self.table.rowCount())
        self.table.setCurrentCell(next((row for row in rows if self._entry(row) == current), -1), 0)
        self.table.blockSignals(False)
        for button in (self.previous_button, self.next_button):
            button.setEnabled(bool(self._entries))
        self.status.setText(f"{len(self._entries)} places" if self._entries else _EMPTY)

    def _entry(self, row: int) -> tuple[Layer, dict[str, Any]] | None:
        """Layer and doubt in a row of the table."""
        item = self.table.item(row, 0) if row >= 0 else None
        return None if item is None else self._entries[item.data(_ENTRY)]

    def _go(self, row: int) -> None:
        entry = self._entry(row)
        if entry is None:
            return
        layer, doubt = entry
        jump_to(self._viewer, layer, doubt["position"])
        what = f", object {doubt['instance']}" if doubt["instance"] else ""
        self.status.setText(f"{row + 1} of {len(self._entries)}: {layer.name}{what}, {doubt['reason']}")


def _doubts_of(layer: Layer) -> list[dict[str, Any]]:
    """Doubts that a layer carries and that its own pixels can hold; a file may say anything."""
    known = layer.metadata.get(KEY)
    listed = known.get("doubts") if isinstance(known, dict) else None
    return [doubt for doubt in listed or () if _is_place(doubt, layer)] if isinstance(listed, list) else []


def _is_place(doubt: Any, layer: Layer) -> bool:
    try:
        position = np.asarray(doubt["position"], float)
        float(doubt["severity"]), int(doubt["slice_index"]), int(doubt["instance"]), str(doubt["reason"])
    except (TypeError, KeyError, ValueError):
        return False
    return position.shape == (layer.ndim,) and bool(np.isfinite(position).all())
