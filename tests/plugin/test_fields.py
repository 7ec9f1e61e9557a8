"""How forms are made: typed fields, choices that keep what was chosen, layers of the right viewer."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QLineEdit

from napari_claps.plugin.widgets.choice import Choice
from napari_claps.plugin.widgets.fields import OptionalFloat, QtField, fields_of, make_form
from napari_claps.plugin.widgets.layer_combo import LayerCombo
from tests.gui_checks import VOLUME

pytestmark = pytest.mark.gui


@dataclass(frozen=True)
class Wishes:
    """What a form may ask for."""

    method: str = "quick"
    least: float | None = None
    often: int = 3
    careful: bool = True
    unasked: str = "no field"


@pytest.fixture
def form(qtbot):
    """Typed fields, and one of Qt's."""
    words = QLineEdit()
    form = make_form(
        *fields_of(Wishes, {
            "method": dict(label="Method", widget_type=Choice, choices=["quick", "good"], tips=lambda m: f"{m} one"),
            "least": dict(label="At least", widget_type=OptionalFloat, min=0.0, max=1.0, step=0.05, nothing="any"),
            "often": dict(label="How often it is done", min=1, max=9),
            "careful": dict(label="Careful", tooltip="Takes longer"),
        }),
        QtField(words, words.text, words.setText, words.textChanged, name="words", label="Words"),
    )  # fmt: skip
    qtbot.addWidget(form.native)
    return form


def texts(choice):
    return [choice.native.itemText(i) for i in range(choice.native.count())]


def test_types_and_defaults_are_those_of_the_dataclass(form):
    values = form.asdict()
    assert values == {"method": "quick", "least": None, "often": 3, "careful": True, "words": ""}
    assert {name: type(value) for name, value in values.items() if name in ("often", "careful")} == {
        "often": int, "careful": bool}  # fmt: skip
    assert form["careful"].tooltip == "Takes longer" and form["careful"].text == "Careful"
    tips = [form["method"].native.itemData(i, Qt.ItemDataRole.ToolTipRole) for i in range(2)]
    assert tips == ["quick one", "good one"]


def test_changes_are_told(form):
    told = []
    form.changed.connect(lambda: told.append(form.asdict()))
    form["method"].value = "good"
    form["least"].value = 0.25
    form["least"].native.setValue(-1)
    form["words"].value = "drusen"
    assert [(now["method"], now["least"], now["words"]) for now in told] == [
        ("good", None, ""), ("good", 0.25, ""), ("good", None, ""), ("good", None, "drusen")]  # fmt: skip
    assert form["least"].native.text() == "any"
    with pytest.raises(ValueError, match="not a valid choice"):
        form["method"].value = "best"


def test_fields_stand_under_each_other(form, qtbot):
    with qtbot.waitExposed(form.native):
        form.show()
    lefts = {form[name].native.mapTo(form.native, form[name].native.rect().topLeft()).x()
             for name in ("method", "least", "often", "words")}
    assert len(lefts) == 1, "labels are equally wide"
    form["often"].visible = False
    (label,) = (label for label in form.native.findChildren(QLabel) if label.text() == "How often it is done")
    assert not label.isVisible(), "the label goes with its field"
    form["often"].visible = True
    assert label.isVisible()


def test_a_choice_is_kept_by_value(qtbot):
    offered = [("a", 1), ("b", 2)]
    choice, told = Choice(choices=lambda _: offered), []
    qtbot.addWidget(choice.native)
    choice.changed.connect(told.append)
    choice.value = 2
    offered[:] = [("c", 3), ("another b", 2), ("a", 1)]
    choice.reset_choices()
    assert choice.value == 2 and choice.current_choice == "another b" and texts(choice) == ["c", "another b", "a"]
    assert choice.tooltip == "another b", "where it is cut off the whole is said"
    offered[:] = [("same", 4), ("same", 5)]
    choice.reset_choices()
    assert texts(choice) == ["same", "same (2)"] and choice.choices == (4, 5)
    choice.value = 5
    offered.clear()
    choice.reset_choices()
    assert choice.value is None and told == [2, 4, 5, None]


def test_a_layer_called_as_the_entry_for_none(qtbot):
    viewer = ViewerModel()
    choice = LayerCombo(viewer, Image, nothing="whole image", name="region")
    form = make_form(choice, follow=viewer)
    qtbot.addWidget(form.native)
    layer = viewer.add_image(VOLUME, name="whole image")
    assert texts(choice) == ["whole image", "whole image (2)"] and choice.layer() is None
    choice.set_layer(layer)
    assert choice.layer() is layer


def test_layers_come_go_move_and_change_their_name(qtbot):
    viewer, told = ViewerModel(), []
    choice = LayerCombo(viewer, Image, lambda layer: layer.ndim == 3, missing="Open one", name="volume")
    form = make_form(choice, follow=viewer)
    qtbot.addWidget(form.native)
    choice.changed.connect(told.append)
    assert choice.layer() is None and choice.tooltip == "Open one"
    first, second = (viewer.add_image(VOLUME, name=name) for name in ("first", "second"))
    viewer.add_image(VOLUME[0])
    viewer.add_labels(np.zeros(VOLUME.shape, int))
    assert texts(choice) == ["first", "second"] and choice.layer() is first
    second.name = "another"
    first.name = "one"
    viewer.layers.move(0, 2)
    assert texts(choice) == ["another", "one"] and choice.layer() is first and choice.tooltip == "one"
    viewer.layers.remove(first)
    viewer.layers.remove(second)
    assert told == [first, second, None]


def test_two_viewers_and_no_dock(make_napari_viewer, qtbot):
    viewers = [make_napari_viewer(), make_napari_viewer()]
    layers = [viewer.add_image(VOLUME, name=f"of viewer {i}") for i, viewer in enumerate(viewers)]
    forms = [make_form(LayerCombo(viewer, Image, name="image"), LayerCombo(viewer, Labels, name="masks"), follow=viewer)
             for viewer in viewers]
    assert [form["image"].choices for form in forms] == [(layer,) for layer in layers], "before they are docked"
    viewers[0].window.add_dock_widget(forms[0], name="form")
    for form in forms:
        qtbot.addWidget(form.native)
    masks = viewers[1].add_labels(np.zeros(VOLUME.shape, int))
    assert [form["masks"].choices for form in forms] == [(), (masks,)]
    assert [form["image"].choices for form in forms] == [(layer,) for layer in layers]


def test_a_viewer_does_not_keep_a_form_that_was_closed(qtbot):
    viewer = ViewerModel()
    form = make_form(LayerCombo(viewer, Image, name="image"), LayerCombo(viewer, Labels, nothing="none", name="masks"),
                     follow=viewer)
    viewer.add_image(VOLUME, name="a")  # without a name napari would look for one in this frame, and keep what it holds
    refs = [weakref.ref(widget) for widget in (form, form["image"], form["masks"])]
    form.native.deleteLater()
    qtbot.wait(10)
    viewer.layers[0].name = "the form is gone"
    del form
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
    viewer.add_image(VOLUME, name="b")


def test_spin_boxes_and_choices_never_compare_pixels(qtbot):
    class Guarded(np.ndarray):
        def __eq__(self, other):
            raise AssertionError("somebody compares whole images")

    viewer = ViewerModel()
    viewer.add_image(np.zeros(VOLUME.shape, np.uint8).view(Guarded))
    form = make_form(LayerCombo(viewer, Image, name="image"),
                     OptionalFloat(name="n", min=0, max=1, step=0.1, nothing="any"), follow=viewer)  # fmt: skip
    qtbot.addWidget(form.native)
    form["n"].value = 0.5
    viewer.add_image(np.zeros(VOLUME.shape, np.uint8).view(Guarded))
    assert form.asdict()["n"] == 0.5
