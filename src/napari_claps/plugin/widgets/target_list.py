"""A list of targets with check boxes, in the colours of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem, QSizePolicy, QWidget

from napari_claps.words.vocabulary import TARGETS

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import Pair

USEFUL_DICE = 0.5
"""Targets measured at least this good are ticked when the user has not chosen."""

_ID = Qt.ItemDataRole.UserRole
_ROWS = 9


class TargetList(QListWidget):
    """Tick what to look for; remembers the ticks when the modality changes and comes back.

    A Qt widget: magicgui's `Select` has neither check boxes nor colours.

    Signals
    -------
    targets_changed
        Another set of targets is ticked now.
    """

    targets_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ticked: dict[str, bool] = {}
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setIconSize(QSize(12, 12))
        self.setUniformItemSizes(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.itemChanged.connect(self._remember)
        self.set_pairs(())

    def set_pairs(self, pairs: Sequence[Pair]) -> None:
        """Offer the targets of `pairs`, all of one modality."""
        order = list(TARGETS)
        pairs = sorted((p for p in pairs if p.target in TARGETS), key=lambda pair: order.index(pair.target))
        good = {p.target for p in pairs if p.dice is not None and p.dice >= USEFUL_DICE}
        good = good or {p.target for p in pairs[:1]}
        self.blockSignals(True)
        self.clear()
        for pair in pairs:
            target = TARGETS[pair.target]
            item = QListWidgetItem(_swatch(target.colour), target.name)
            item.setData(_ID, target.id)
            item.setToolTip(f"{target.id}: {target.description}.\n{_measured(pair)}")
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            ticked = self._ticked.get(target.id, target.id in good)
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
            self.addItem(item)
        self.blockSignals(False)
        self.updateGeometry()
        self.targets_changed.emit()

    def sizeHint(self) -> QSize:
        """As high as its rows, whose height is known when the theme is."""
        rows = min(max(self.count(), 2), _ROWS)
        height = self.sizeHintForRow(0) if self.count() else self.fontMetrics().height()
        return QSize(super().sizeHint().width(), rows * height + 2 * self.frameWidth() + 2)

    def minimumSizeHint(self) -> QSize:
        """As high as it wants to be: in a dock that is too low it would be pressed to nothing."""
        return QSize(super().minimumSizeHint().width(), self.sizeHint().height())

    def changeEvent(self, event: QEvent | None) -> None:
        """Ask for other room when the font is another one."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self.updateGeometry()

    def offered(self) -> list[str]:
        """Ids of all targets in the list."""
        return [item.data(_ID) for item in self._items()]

    def targets(self) -> list[str]:
        """Ids of the ticked targets."""
        return [item.data(_ID) for item in self._items() if item.checkState() == Qt.CheckState.Checked]

    def set_targets(self, targets: Sequence[str]) -> None:
        """Tick these targets and no others."""
        for item in self._items():
            on = item.data(_ID) in targets
            item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)

    def _items(self) -> list[QListWidgetItem]:
        return [item for row in range(self.count()) if (item := self.item(row)) is not None]

    def _remember(self, item: QListWidgetItem) -> None:
        self._ticked[item.data(_ID)] = item.checkState() == Qt.CheckState.Checked
        self.targets_changed.emit()


def _measured(pair: Pair) -> str:
    if pair.dice is None:
        return "Its accuracy was not measured."
    return f"Dice {pair.dice:.2f} on {pair.n_images} validation images."


def _swatch(colour: tuple[int, int, int]) -> QIcon:
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor(*colour))
    return QIcon(pixmap)
