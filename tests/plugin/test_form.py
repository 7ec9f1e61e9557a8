"""The form of the Segment widget: what can be chosen, and what is said to a wrong choice."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from qtpy.QtCore import Qt

from napari_claps.methods import METHODS
from napari_claps.plugin.widgets import SegmentWidget
from napari_claps.plugin.widgets.modality_combo import ModalityCombo
from napari_claps.settings import Settings
from napari_claps.types import Modality, ModalityGuess
from tests.gui_checks import FUNDUS, PLACE, VOLUME, boxes_of, errors, finish, idle, labels_of

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]


def test_colour_photograph(make_widget, qtbot, pipeline):
    viewer, widget = make_widget(FUNDUS, rgb=True)
    assert widget.form.modality_combo.modality() is Modality.CFP
    assert "90%" in widget.form.modality_combo.current_choice
    assert widget.form.target_list.offered() == ["vessel", "optic_disc"]
    assert not widget.form.slice_choice.native.isVisibleTo(widget)
    widget.run()
    finish(qtbot, widget)
    assert pipeline.image.rgb and pipeline.image.data.shape == FUNDUS.shape
    assert labels_of(viewer)["vessel"].data.shape == FUNDUS.shape[:2]
    assert boxes_of(viewer)[0].ndim == 2


def test_slices(make_widget, qtbot, pipeline):
    viewer, widget = make_widget(**PLACE)
    choice = widget.form.slice_choice
    assert choice.native.isVisibleTo(widget)
    choice.mode.setCurrentText("the slice in view")
    viewer.dims.set_current_step(0, 5)
    widget.run()
    finish(qtbot, widget)
    assert pipeline.slices_done == [5]
    choice.mode.setCurrentText("a range")
    choice.last.setValue(8)
    choice.first.setValue(6)
    pipeline.slices_done.clear()
    widget.run()
    finish(qtbot, widget)
    assert pipeline.slices_done == [6, 7, 8]
    choice.mode.setCurrentText("the slice in view")
    viewer.dims.ndisplay = 3
    widget.run()
    assert idle(widget) and "2D" in errors()[-1]


def test_the_modality_can_be_corrected(make_widget, qtbot, pipeline):
    _, widget = make_widget()
    widget.form.modality_combo.set_modality(Modality.CFP)
    assert widget.form.target_list.offered() == ["vessel", "optic_disc"]
    widget.run()
    finish(qtbot, widget)
    assert pipeline.modality.modality is Modality.CFP and pipeline.modality.decided_by == "user"
    widget.form.modality_combo.set_modality(Modality.FAF)
    assert widget.form.target_list.offered() == [] and "not trained" in widget.form.status.text()
    assert not widget.form.run_button.isEnabled()


def test_words(make_widget, qtbot, pipeline):
    viewer, widget = make_widget()
    widget.form.target_list.set_targets([])
    assert not widget.form.run_button.isEnabled()
    widget.form.free_text.setText("drussen")
    assert "Did you mean drusen" in widget.form.status.text()
    widget.form.free_text.setText("IRF; dark round holes")
    assert widget.form.run_button.isEnabled() and widget.form.status.text() == ""
    widget.run()
    finish(qtbot, widget)
    assert list(labels_of(viewer)) == ["intraretinal_fluid", "dark round holes"]


def test_no_image(make_napari_viewer, pipeline, qtbot):
    viewer = make_napari_viewer()
    widget = SegmentWidget(viewer)
    qtbot.addWidget(widget)
    assert not widget.form.run_button.isEnabled() and "Open" in widget.form.status.text()
    viewer.add_labels(np.zeros((9, 9), int))
    assert widget.form.layer() is None
    image = viewer.add_image(VOLUME, name="a")
    assert widget.form.layer() is image
    image.name = "b"
    assert widget.form.layer_combo.current_choice == "b" and widget.form.layer() is image
    viewer.layers.clear()
    assert widget.form.layer() is None and not widget.form.run_button.isEnabled()


def test_four_axes_are_refused_with_advice(make_napari_viewer, pipeline, qtbot):
    viewer = make_napari_viewer()
    viewer.add_image(np.zeros((2, 3, 20, 20), np.uint8), name="film")
    widget = SegmentWidget(viewer)
    qtbot.addWidget(widget)
    assert "'film' has 4 axes" in widget.form.status.text()
    widget.form.modality_combo.set_modality(Modality.OCT)
    widget.run()
    assert "'film' has 4 axes" in errors()[-1] and idle(widget)


def test_spin_boxes_do_not_touch_the_pixels(make_widget, qtbot):
    class Guarded(np.ndarray):
        reads = 0

        def __array__(self, *args, **kwargs):
            Guarded.reads += 1
            return super().__array__(*args, **kwargs)

        def __array_ufunc__(self, *args, **kwargs):
            Guarded.reads += 1
            return super().__array_ufunc__(*args, **kwargs)

        def __eq__(self, other):
            raise AssertionError("somebody compares whole images")

    _, widget = make_widget(np.zeros((64, 512, 512), np.uint8).view(Guarded))
    qtbot.wait(300)
    before = Guarded.reads
    for value in np.linspace(0, 1, 50):
        widget.form.advanced.fields["score_threshold"].value = value
        widget.form.slice_choice.first.setValue(int(value * 60))
    assert Guarded.reads == before, "so the boxes are as quick as for a small image"


def test_every_nth_slice(make_widget, qtbot, pipeline):
    _, widget = make_widget()
    choice = widget.form.slice_choice
    choice.mode.setCurrentText("every n-th slice")
    assert choice.step.isVisibleTo(widget) and not choice.first.isVisibleTo(widget)
    assert choice.indices(0) == [0, 2, 4, 6, 8, 10], "every second one, if nothing else is said"
    choice.step.setValue(5)
    widget.run()
    finish(qtbot, widget)
    assert pipeline.slices_done == [0, 5, 10]
    choice.mode.setCurrentText("a range")
    choice.first.setValue(3)
    choice.step.setValue(4)
    assert choice.indices(0) == [3, 7, 11]


def test_a_modality_that_the_image_does_not_look_like(make_widget):
    _, widget = make_widget()
    warning = widget.form.warning
    assert not warning.isVisibleTo(widget)
    widget.form.modality_combo.set_modality(Modality.CFP)
    assert warning.isVisibleTo(widget) and warning.text() == (
        "You chose colour fundus photograph, but the image looks like OCT B-scan (90%). Results may be meaningless.")
    widget.form.modality_combo.set_modality(Modality.OCT)
    assert not warning.isVisibleTo(widget), "the choice and the image agree"
    widget.form.modality_combo.set_modality(Modality.CFP)
    widget.form.modality_combo.set_automatic()
    assert not warning.isVisibleTo(widget)


def test_the_probability_of_the_chosen_modality_is_shown_too(qtbot):
    combo = ModalityCombo()
    qtbot.addWidget(combo.native)
    combo.set_modality(Modality.CFP)
    assert combo.disagreement() == "", "nothing was detected yet"
    combo.show_guess(ModalityGuess(Modality.OCT, 0.93, "detected", {"oct": 0.93, "cfp": 0.04}))
    assert combo.disagreement() == ("You chose colour fundus photograph, but the image looks like OCT B-scan "
                                    "(93%, colour fundus photograph 4%).")
    combo.show_guess(ModalityGuess(Modality.OCT, None, "file"))
    assert combo.disagreement() == "You chose colour fundus photograph, but the file says OCT B-scan."


def test_advanced_options_become_settings(make_widget, qtbot, pipeline):
    _, widget = make_widget()
    advanced = widget.form.advanced
    assert not advanced.isExpanded() and advanced.content().maximumHeight() == 0, "out of the way at first"
    assert advanced.settings("b") == Settings(bundle="b"), "the defaults are those of the settings"
    fields = advanced.fields
    assert fields["method"].choices == tuple(METHODS)
    fields["method"].value = "salip"
    fields["device"].value = "cpu"
    fields["score_threshold"].value = 0.25
    fields["uncertainty"].value = True
    widget.run()
    finish(qtbot, widget)
    assert pipeline.settings == Settings(method="salip", bundle="fake", device="cpu", score_threshold=0.25,
                                         uncertainty=True)
    assert {m: tip for m, tip in ((m, fields["method"].native.itemData(i, Qt.ItemDataRole.ToolTipRole))
                                  for i, m in enumerate(METHODS)) if not tip} == {}, "every method is explained"
