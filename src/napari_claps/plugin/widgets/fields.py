"""How every form of this plugin is made: magicgui fields with a label and a tool tip, one under the other.

A form is a `magicgui.widgets.Container`: its fields are found by name, and
`asdict` gives their values. `fields_of` takes type and default of a field from
the dataclass or function that will get the value, so that neither is said twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from magicgui.types import Undefined
from magicgui.widgets import Container, FloatSpinBox, create_widget
from magicgui.widgets.bases import ButtonWidget, ValuedContainerWidget, Widget
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QFormLayout, QLabel, QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel

T = TypeVar("T")

NO_LABEL = " "
"""Label of a field that belongs to the one above; magicgui takes the name instead of an empty one."""


def fields_of(what: Callable[..., Any], options: Mapping[str, Mapping[str, Any]]) -> list[Widget]:
    """Make a field for each parameter of `what` that is named in `options`.

    Parameters
    ----------
    what : callable
        A dataclass or a function; says which type a parameter has, and its default.
    options : mapping
        For each parameter what its field needs besides: ``label``, ``tooltip``, ``choices``, ``widget_type`` …
    """
    parameters, hints = inspect.signature(what).parameters, get_type_hints(what)
    fields = []
    for name, own in options.items():
        default, rest = parameters[name].default, dict(own)
        # Not by magicgui's own signature: that keeps the options of every form it ever made in a cache.
        fields.append(create_widget(
            name=name, annotation=hints[name], value=Undefined if default is inspect.Parameter.empty else default,
            label=rest.pop("label", None), widget_type=rest.pop("widget_type", None), options=rest,
        ))  # fmt: skip
    return fields


def make_form(*fields: Widget, follow: ViewerModel | None = None) -> Container[Any]:
    """Put fields under each other, each with its label at the left, as far left as the form itself.

    The labels are Qt's: magicgui measures its own once, before the theme of the
    window makes them wider, and needs three widgets for each row.

    Parameters
    ----------
    *fields : Widget
    follow : ViewerModel, optional
        Choices of the form are offered anew whenever layers of this viewer come, go, move or change their name.
        The viewer does not hold the form.
    """
    form: Container[Any] = Container(widgets=fields, labels=False)
    form.native_parent_changed.disconnect()  # choices do not depend on the parent
    if follow is not None:
        events = follow.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(form.reset_choices)
    rows = QFormLayout()
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for field in fields:
        if isinstance(field, ButtonWidget):
            rows.addRow(field.native)  # says itself what it is
        else:
            label = QLabel(field.label)
            rows.addRow(label, field.native)
            field.native.installEventFilter(_Together(label))
    form.native.layout().addLayout(rows)
    form.margins = (0, 0, 0, 0)
    return form


class _Together(QObject):
    """Hides and shows a label with its field."""

    def __init__(self, label: QLabel) -> None:
        super().__init__(label)
        self._label = label

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Do with the label what was done with the field."""
        if event is not None and event.type() in (QEvent.Type.ShowToParent, QEvent.Type.HideToParent):
            self._label.setVisible(event.type() == QEvent.Type.ShowToParent)
        return False


class QtField(ValuedContainerWidget[T], Generic[T]):
    """A Qt widget that magicgui has no like of, as a field with a value, a label and `changed`.

    Parameters
    ----------
    widget : QWidget
    read, write : callable
        Get and set its value.
    changed : Qt signal
        Tells that its value is another one.
    **options
        Those of a magicgui widget: ``name``, ``label``, ``tooltip`` …
    """

    def __init__(self, widget: QWidget, read: Callable[[], T], write: Callable[[T], None], changed: Any,
                 **options: Any) -> None:
        self._read, self._write = read, write
        super().__init__(labels=False, **options)
        self.margins = (0, 0, 0, 0)
        self.native.layout().addWidget(widget)
        changed.connect(self._tell)

    def get_value(self) -> T:
        """The value of the widget."""
        return self._read()

    def set_value(self, value: T) -> None:
        """Give the widget another value."""
        self._write(value)

    def _tell(self) -> None:
        self.changed.emit(self.value)


class OptionalFloat(FloatSpinBox):
    """A spin box with a lowest step that stands for None; magicgui has numbers only.

    Parameters
    ----------
    nothing : str
        What the lowest step says.
    min, max, step : float
        Of the numbers.
    """

    def __init__(self, value: Any = None, *, nothing: str, min: float, max: float, step: float,
                 nullable: bool = True, **options: Any) -> None:
        self._least = min
        super().__init__(min=min - step, max=max, step=step, **options)
        self.native.setSpecialValueText(nothing)
        self.set_value(None if value is Undefined else value)

    def get_value(self) -> Any:
        """The number, or None."""
        number = super().get_value()
        return None if number < self._least else round(number, 4)

    def set_value(self, value: Any) -> None:
        """Set a number, or None."""
        super().set_value(self.min if value is None else value)
