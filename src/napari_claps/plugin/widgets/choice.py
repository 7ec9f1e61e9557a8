"""magicgui's combo box, made fit for a narrow dock and for entries that change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from magicgui.types import Separator, Undefined
from magicgui.widgets import ComboBox
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QComboBox, QSizePolicy, QStyle, QStyleOptionComboBox, QStylePainter

Entries = Iterable[tuple[str, Any]]
"""Texts with the values they stand for."""


class Choice(ComboBox):
    """A combo box that holds its choice by value, however the entries and their texts change.

    magicgui's own finds the choice again by its text: a layer that gets another
    name would lose it. Its texts are also kept apart here, entries have tool tips
    of their own, and the box is as narrow as the dock.

    Parameters
    ----------
    value : Any, optional
        What is chosen at first.
    choices : list of values or of (text, value), or callable that gets this widget and returns one
        What can be chosen; `reset_choices` asks again.
    tips : callable, optional
        The tool tip of an entry from its value.
    nothing : str
        With ``nullable``, the text of the first entry, which stands for None.
    **options
        Those of a magicgui widget: ``name``, ``label``, ``tooltip`` … Without a tool tip it says the chosen text.
    """

    def __init__(self, value: Any = Undefined, choices: Any = (), *, tips: Callable[[Any], str] | None = None,
                 nothing: str = "", **options: Any) -> None:
        self.null_string = nothing or self.null_string
        self._entries: list[tuple[str, Any]] | None = None
        self._tips = tips
        self._says_choice = not options.get("tooltip")
        super().__init__(value=value, choices=choices, **options)
        self.native_parent_changed.disconnect()  # who its parent is changes nothing
        _make_narrow(self.native)
        if self._says_choice:
            self.changed.connect(self._describe)

    def reset_choices(self, *_: Any) -> None:
        """Offer what can be chosen now; what was chosen stays if it still can be."""
        if not isalive(self.native):
            return  # the dock widget was closed, what it follows was not
        entries = self._distinct(self._offered())
        if entries == self._entries:
            return
        before, first_time = self.value, self._entries is None
        self._entries = entries
        with self.changed.blocked():
            if not first_time:
                self.choices = ()  # magicgui leaves entries that stay at their place, and others get theirs
            self.choices = entries[1:] if self._nullable else entries
            if entries:
                self.value = self.settle(before)
        self._add_tips()
        if self._says_choice:
            self._describe()
        if self.value != before and not first_time:
            self.changed.emit(self.value)  # also where it is None now, which magicgui does not tell

    def settle(self, before: Any) -> Any:
        """What to choose when the entries have changed: what was chosen before, else the first."""
        return before if before in self.choices else self.choices[0]

    def _offered(self) -> Entries:
        choices = self._default_choices
        found = choices(self) if callable(choices) else choices
        return [entry if isinstance(entry, tuple) else (str(entry), entry) for entry in found]

    def _distinct(self, entries: Entries) -> list[tuple[str, Any]]:
        """All entries, no two with one text: magicgui would take them for one."""
        found: dict[str, Any] = {self.null_string: self.null_value} if self._nullable else {}
        rest = []
        for text, value in entries:
            number = 1
            while (shown := text if number == 1 else f"{text} ({number})") in found:
                number += 1
            found[shown] = value
            rest.append((shown, value))
        return [(self.null_string, self.null_value), *rest] if self._nullable else rest

    def _add_tips(self) -> None:
        combo, tips = self.native, self._tips
        if tips is None:
            return
        for index in range(combo.count()):
            value = combo.itemData(index)
            if value is not None and value is not Separator:
                combo.setItemData(index, tips(value), Qt.ItemDataRole.ToolTipRole)

    def _describe(self, *_: Any) -> None:
        self.tooltip = self.current_choice


def _make_narrow(combo: QComboBox) -> None:
    """Let the box have the room that there is, and cut a long text in its middle: names often differ at the end."""
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    combo.installEventFilter(_Elision(combo))


class _Elision(QObject):
    """Paints a combo box with an ellipsis where Qt only cuts off; a filter, as magicgui makes the box itself."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is None or event.type() != QEvent.Type.Paint or not isinstance(watched, QComboBox):
            return False
        option = QStyleOptionComboBox()
        watched.initStyleOption(option)
        style = watched.style()
        if style is None:
            return False
        room = style.subControlRect(QStyle.ComplexControl.CC_ComboBox, option,
                                    QStyle.SubControl.SC_ComboBoxEditField, watched).width()  # fmt: skip
        elide = Qt.TextElideMode.ElideMiddle
        option.currentText = watched.fontMetrics().elidedText(option.currentText, elide, room - 2)
        painter = QStylePainter(watched)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()
        return True
