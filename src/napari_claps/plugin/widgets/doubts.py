"""The list of places to look at of the results in a viewer, and the way to each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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

from napari_claps.plugin.doubt_layers import Kind, Place, places_of

COLUMNS = ("Slice", "Target", "Reason", "Doubt")
"""`Doubt` is the severity of a place from 0 to 1, or ``anatomy`` where something cannot be in an eye."""

NEXT, PREVIOUS = "F8", "Shift+F8"
_EMPTY = ("No doubtful places. They are listed here after a run: over several B-scans of an OCT volume with linked "
          "objects, and where targets were looked for together that tell what cannot be in an eye.")
_ENTRY = Qt.ItemDataRole.UserRole
_SORT = Qt.ItemDataRole.UserRole + 1
_KINDS = {Kind.ANATOMY: "cannot be in an eye; nothing was changed", Kind.DOUBT: "one slice differs from its neighbours"}


def jump_to(viewer: ViewerModel, layer: Layer, position: Sequence[float]) -> None:
    """Show the slice of a place, and bring the place to the middle of the canvas.

    Parameters
    ----------
    viewer : ViewerModel
    layer : Layer
        Whose pixels `position` counts.
    position : sequence of float
        (y, x) or (z, y, x).
    """
    world = layer.data_to_world(position)
    first = viewer.dims.ndim - layer.ndim  # a layer lies over the last axes of the viewer
    viewer.dims.set_point(range(first, viewer.dims.ndim), world)
    point = [*viewer.dims.point[:first], *world]  # the point of the viewer itself is rounded to whole pixels
    centre = [point[axis] for axis in viewer.dims.displayed]
    scene = getattr(viewer, "scene", viewer)  # the camera moved there in napari 0.9
    scene.camera.center = (*[0.0] * (3 - len(centre)), *centre)


class DoubtsWidget(QWidget):
    """Go through the places that somebody should look at: what cannot be, then doubts, the most severe first.

    They are kept with the masks layers, so that they come and go with them.

    Parameters
    ----------
    napari_viewer : Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer: ViewerModel = napari_viewer
        self._watched: list[Layer] = []
        self._entries: list[tuple[Layer, Place]] = []
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
        rows = cast(QHeaderView, table.verticalHeader())  # a table has both, whatever the stubs say
        rows.hide()
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTabKeyNavigation(False)
        header = cast(QHeaderView, table.horizontalHeader())
        header.setSortIndicator(COLUMNS.index("Doubt"), Qt.SortOrder.DescendingOrder)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for name in ("Target", "Reason"):  # cut off in a narrow dock; tool tip and status say the whole
            header.setSectionResizeMode(COLUMNS.index(name), QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(30)
        table.setWordWrap(False)
        table.setMinimumHeight(6 * rows.defaultSectionSize())
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
        current = self._entry(self.table.currentRow())
        header = cast(QHeaderView, self.table.horizontalHeader())
        order = header.sortIndicatorSection(), header.sortIndicatorOrder()
        self._watch(list(self._viewer.layers))
        entries = [(layer, place) for layer in self._watched for place in places_of(layer)]
        self._entries = sorted(entries, key=lambda entry: -_weight(entry[1]))
        self.table.blockSignals(True)
        self.table.setSortingEnabled(False)
        self.table.clearContents()
        self.table.setRowCount(len(self._entries))
        for row, (layer, place) in enumerate(self._entries):
            doubt = str(place.kind) if place.severity is None else f"{place.severity:.2f}"
            shown = (place.slice_index, layer.name, place.reason, doubt)
            for column, (value, key) in enumerate(zip(shown, (*shown[:-1], _weight(place)), strict=True)):
                item = _Cell(str(value))
                item.setData(_SORT, key)
                item.setData(_ENTRY, row)
                item.setToolTip(f"{layer.name}: {place.reason}\n{place.kind}: {_KINDS[place.kind]}")
                self.table.setItem(row, column, item)
        self.table.setSortingEnabled(True)
        self.table.sortItems(*order)
        rows = range(self.table.rowCount())
        self.table.setCurrentCell(next((row for row in rows if self._entry(row) == current), -1), 0)
        self.table.blockSignals(False)
        for button in (self.previous_button, self.next_button):
            button.setEnabled(bool(self._entries))
        count = len(self._entries)
        self.status.setText(f"{count} place{'s' * (count != 1)}" if count else _EMPTY)

    def _entry(self, row: int) -> tuple[Layer, Place] | None:
        """Layer and place in a row of the table."""
        item = self.table.item(row, 0) if row >= 0 else None
        return None if item is None else self._entries[item.data(_ENTRY)]

    def _go(self, row: int) -> None:
        entry = self._entry(row)
        if entry is None:
            return
        layer, place = entry
        jump_to(self._viewer, layer, place.position)
        what = f", object {place.instance}" if place.instance else ""
        self.status.setText(f"{row + 1} of {len(self._entries)}: {layer.name}{what}, {place.reason}")


class _Cell(QTableWidgetItem):
    """A cell that is sorted by what it stands for, not by its text."""

    def __lt__(self, other: QTableWidgetItem) -> bool:
        return self.data(_SORT) < other.data(_SORT)


def _weight(place: Place) -> float:
    """What cannot be comes before all doubts."""
    return 2.0 if place.severity is None else place.severity
