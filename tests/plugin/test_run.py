"""A run of the Segment widget: its thread, cancelling, failures, and layers that go while it works."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.utils.notifications import notification_manager

from napari_claps.errors import InputError
from napari_claps.plugin.widgets.result_layers import ResultLayers
from napari_claps.plugin.widgets.run import State
from napari_claps.types import Modality
from tests.gui_checks import FUNDUS, VOLUME, errors, finish, labels_of, wait_for_slices

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]


def test_cancel_stops_within_one_slice_and_keeps_what_is_done(make_widget, qtbot, pipeline, gate):
    viewer, widget = make_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    widget.form.run_button.click()
    assert widget.form.run_button.text() == "Cancelling…"
    assert not widget.form.run_button.isEnabled()
    gate.set()
    finish(qtbot, widget)
    assert pipeline.slices_done == [0, 1, 2, 3], "the slice under way ends, no other one starts"
    filled = labels_of(viewer)["drusen"].data.any(axis=(1, 2))
    assert filled[:3].all() and not filled[4:].any()
    assert widget.form.status.text().startswith("Cancelled")
    assert widget.form.run_button.text() == "Run" and widget.form.run_button.isEnabled()
    assert not errors()
    widget.run()
    finish(qtbot, widget)
    assert widget.form.status.text().startswith("Done"), "the widget works on after a cancelled run"


def test_the_window_stays_responsive(make_widget, qtbot, pipeline):
    from qtpy.QtCore import QTimer

    ticks, unanswered = [], []

    def compute(index):
        seen, deadline = len(ticks), time.monotonic() + 30
        while len(ticks) == seen and time.monotonic() < deadline:
            sum(range(2000))  # as greedy for the interpreter as Python can be
        if len(ticks) == seen:
            unanswered.append(index)

    pipeline.before_slice = compute
    _, widget = make_widget(np.zeros((30, 256, 256), np.uint8))
    timer = QTimer()
    timer.setInterval(10)
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start()
    widget.run()
    finish(qtbot, widget)
    timer.stop()
    assert len(pipeline.slices_done) == 30 and not unanswered, "the event loop turns while every slice is computed"


def test_one_result_layer_deleted_during_a_run(make_widget, qtbot, gate):
    viewer, widget = make_widget()
    widget.form.target_list.set_targets(["drusen", "retina"])
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    viewer.layers.remove(labels_of(viewer)["drusen"])
    gate.set()
    finish(qtbot, widget)
    assert list(labels_of(viewer)) == ["retina"]
    assert labels_of(viewer)["retina"].data.any(axis=(1, 2)).all(), "the other target goes on"
    assert not errors()


@pytest.mark.parametrize("what", ["image", "results"])
def test_all_layers_deleted_during_a_run(make_widget, qtbot, pipeline, gate, what):
    viewer, widget = make_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    for layer in list(viewer.layers)[:1] if what == "image" else list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    gate.set()
    finish(qtbot, widget)
    assert pipeline.slices_done == [0, 1, 2, 3]
    assert any("The run stops" in str(r.message) for r in notification_manager.records)
    assert not errors()


def test_viewer_closed_during_a_run(make_widget, qtbot, pipeline, gate):
    viewer, widget = make_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    viewer.close()
    gate.set()
    qtbot.waitUntil(lambda: pipeline.slices_done == [0, 1, 2, 3], timeout=60000)
    qtbot.wait(300)
    assert pipeline.slices_done == [0, 1, 2, 3] and not viewer.layers
    assert not errors()


def test_two_viewers_do_not_collide(make_widget, qtbot, pipeline):
    pipeline.seconds = 0.02
    first, one = make_widget()
    second, two = make_widget(FUNDUS, rgb=True)
    one.run()
    two.run()
    finish(qtbot, one)
    finish(qtbot, two)
    assert list(labels_of(first)) == ["drusen"] and labels_of(first)["drusen"].data.shape == VOLUME.shape
    assert list(labels_of(second)) == ["vessel", "optic_disc"]
    assert labels_of(second)["vessel"].data.shape == FUNDUS.shape[:2]


@pytest.mark.parametrize("error", [InputError("Layer 'VOLUME' is not good. Take another."), RuntimeError("torch broke"),
                                   MemoryError("no room")])
def test_an_error_is_shown_and_the_widget_stays_usable(make_widget, qtbot, pipeline, error):
    viewer, widget = make_widget()
    pipeline.error, pipeline.error_at = error, 4
    widget.run()
    finish(qtbot, widget)
    assert errors() == [str(error)]
    assert widget.form.status.text().startswith("Failed")
    assert labels_of(viewer)["drusen"].data.any(axis=(1, 2)).sum() == 4, "finished slices stay"
    pipeline.error = None
    widget.run()
    finish(qtbot, widget)
    assert widget.form.status.text().startswith("Done")


def test_layers_that_cannot_take_the_results(make_widget, qtbot, pipeline, gate):
    viewer, widget = make_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    labels_of(viewer)["drusen"].data = np.zeros((2, 3, 4), np.uint16)
    gate.set()
    finish(qtbot, widget)
    assert pipeline.slices_done[-1] < 11, "the run stops"
    assert len(errors()) == 1 and widget.form.status.text().startswith("Failed")
    viewer.layers.remove(labels_of(viewer)["drusen"])
    widget.run()
    finish(qtbot, widget)
    assert widget.form.status.text().startswith("Done")


def test_unknown_target_and_bad_pixels(make_widget, qtbot):
    data = VOLUME.astype(np.float32)
    data[3, 4, 5] = np.nan
    viewer, widget = make_widget()
    widget.form.free_text.setText("drussen")
    widget.run()
    finish(qtbot, widget)
    assert "Did you mean drusen" in errors()[-1] and not labels_of(viewer)
    widget.form.free_text.clear()
    bad = viewer.add_image(data, name="bad")
    widget.form.layer_combo.set_layer(bad)
    qtbot.waitUntil(lambda: "NaN" in widget.form.status.text(), timeout=60000)
    widget.form.modality_combo.set_modality(Modality.OCT)
    widget.run()
    finish(qtbot, widget)
    assert "'bad'" in errors()[-1] and "NaN" in errors()[-1] and not labels_of(viewer)


def test_keys(make_widget, qtbot, gate):
    from qtpy.QtCore import Qt

    viewer, widget = make_widget()
    viewer.window._qt_window.show()
    viewer.window._qt_window.activateWindow()
    widget.form.free_text.setFocus()
    qtbot.waitUntil(widget.form.free_text.hasFocus, timeout=60000)
    qtbot.keyClick(widget.form.free_text, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert widget.runner.state is State.RUNNING
    qtbot.keyClick(widget.form.free_text, Qt.Key.Key_Escape)
    assert widget.runner.state is State.CANCELLING
    gate.set()
    finish(qtbot, widget)
    assert widget.form.status.text().startswith("Cancelled")


def test_progress_is_in_the_activity_dock(make_widget, qtbot, gate):
    from napari.utils import progress

    viewer, widget = make_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    (bar,) = progress._all_instances
    assert bar.n == 3 and bar.total == 12 and "Segmenting" in bar.desc
    assert widget.form.status.text().startswith("Slice 2: 3 of 12 done, about")
    gate.set()
    finish(qtbot, widget)
    qtbot.waitUntil(lambda: not progress._all_instances, timeout=60000)


@pytest.mark.parametrize("torch_first", [False, True], ids=["napari", "claps gui"])
def test_the_networks_can_be_imported_after_the_window_was_drawn(torch_first):
    """Triton's LLVM crashes in a process in which Mesa has loaded its own: hence `_triton`."""
    code = (f"{'import torch; ' * torch_first}import napari, sys; from qtpy.QtWidgets import QApplication;"
            "viewer = napari.Viewer(show=True); [QApplication.processEvents() for _ in range(5)];"
            f"assert ('torch' in sys.modules) is {torch_first};"
            "from napari_claps.plugin.triton import hide_triton_from_torch; hide_triton_from_torch();"
            "import torchvision; viewer.close()")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("step", ["flush", "complete"])
def test_an_error_while_results_are_completed_ends_the_run_with_a_message(make_widget, qtbot, monkeypatch, step):
    """As when somebody gives a layer another size meanwhile: the button must not stay as it is."""
    def broken(self, *_):
        raise IndexError("the layer has another size")
        yield

    _, widget = make_widget()
    monkeypatch.setattr(ResultLayers, step, broken if step == "complete" else lambda self: next(broken(self)))
    if step == "flush":  # not while slices come, at their end
        widget.runner._redraw.setInterval(10**6)
    widget.run()
    finish(qtbot, widget)
    assert widget.runner.state is State.IDLE and widget.form.run_button.text() == "Run"
    assert errors() == ["the layer has another size"]
