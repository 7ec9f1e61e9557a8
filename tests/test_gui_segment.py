"""The Segment widget in a real viewer, with a pipeline whose speed and failures the test decides."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from napari_claps.errors import InputError
from napari_claps.types import Modality, SpacingSource
from tests.fake_pipeline import MANIFEST, FakePipeline

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.utils.notifications import notification_manager

from napari_claps._layers import KEY
from napari_claps._widgets import SegmentWidget, _bundle_combo
from napari_claps._widgets._run import State
from napari_claps._worker import Engine

pytestmark = pytest.mark.gui

VOLUME = np.random.default_rng(0).integers(0, 255, (12, 40, 60), dtype=np.uint8)
FUNDUS = np.random.default_rng(1).integers(0, 255, (64, 80, 3), dtype=np.uint8)
PLACE = dict(scale=(0.24, 0.004, 0.012), translate=(1.0, 2.0, 3.0), units=("mm", "mm", "mm"),
             axis_labels=("z", "y", "x"))


@pytest.fixture
def pipeline(monkeypatch):
    fake = FakePipeline()
    monkeypatch.setattr(_bundle_combo, "available_bundles", lambda: [MANIFEST])
    monkeypatch.setattr(Engine, "_pipeline", lambda self, settings: fake)
    notification_manager.records.clear()
    return fake


@pytest.fixture
def make_widget(make_napari_viewer, pipeline, qtbot):
    """Open a viewer with an image and the widget docked; wait until the modality is known."""

    def make(data=VOLUME, *, threads=True, viewer=None, **options):
        viewer = viewer or make_napari_viewer()
        viewer.add_image(data, **options)
        widget = SegmentWidget(viewer, threads=threads)
        viewer.window.add_dock_widget(widget, name="Segment")
        qtbot.waitUntil(lambda: widget.form.modality_combo.modality() is not None, timeout=20000)
        return viewer, widget

    return make


@pytest.fixture
def gate(pipeline):
    """Hold the pipeline before slice 3 until the gate is opened."""
    opened = threading.Event()

    def before_slice(index):
        if index == 3:
            assert opened.wait(60)

    pipeline.before_slice = before_slice
    yield opened
    opened.set()


def idle(widget):
    return widget.runner.state is State.IDLE


def finish(qtbot, widget):
    qtbot.waitUntil(lambda: idle(widget), timeout=20000)


def errors():
    return [str(r.message) for r in notification_manager.records if str(r.severity) == "error"]


def labels_of(viewer):
    return {layer.metadata[KEY]["label"]: layer for layer in viewer.layers
            if layer.metadata.get(KEY, {}).get("content") == "masks"}


def wait_for_slices(qtbot, viewer, n_slices):
    """Wait until so many slices have arrived in the layers."""
    qtbot.waitUntil(lambda: any(len(layer.metadata[KEY]["presence"]) >= n_slices
                                for layer in labels_of(viewer).values()), timeout=20000)


def boxes_of(viewer):
    return [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("content") == "boxes"]


def test_a_run_makes_one_labels_layer_per_target_and_one_shapes_layer(make_widget, qtbot, pipeline):
    viewer, widget = make_widget(**PLACE)
    assert widget.form.target_list.offered() == ["drusen", "intraretinal_fluid", "retina"]
    assert widget.form.target_list.targets() == ["drusen"], "targets with a good measured Dice are ticked"
    widget.form.target_list.set_targets(["drusen", "intraretinal_fluid"])
    widget.form.run_button.click()
    assert widget.form.run_button.text() == "Cancel"
    finish(qtbot, widget)

    masks = labels_of(viewer)
    assert list(masks) == ["drusen", "intraretinal_fluid"]
    assert masks["drusen"].data.dtype == np.uint16 and masks["drusen"].data.shape == VOLUME.shape
    assert (masks["drusen"].data.sum(axis=(1, 2)) == 35).all(), "every slice is filled"
    assert masks["drusen"].features["name"].tolist() == ["drusen"]
    assert masks["drusen"].features["pixels"].tolist() == [35 * 12]
    assert masks["drusen"].features["volume_mm3"][0] == pytest.approx(35 * 12 * 0.24 * 0.004 * 0.012)
    (boxes,) = boxes_of(viewer)
    assert boxes.nshapes == 24
    assert list(boxes.features.columns) == ["label", "score", "slice", "source", "instance"]
    assert widget.form.run_button.text() == "Run"
    assert "12 of 12 slices" in widget.form.status.text() and "drusen: in 12 slices" in widget.form.status.text()
    assert pipeline.threads and threading.current_thread().name not in pipeline.threads


def test_boxes_appear_on_their_slice_with_label_and_score(make_widget, qtbot):
    viewer, widget = make_widget(**PLACE)
    widget.form.target_list.set_targets(["drusen", "intraretinal_fluid"])
    widget.run()
    finish(qtbot, widget)
    (boxes,) = boxes_of(viewer)
    assert list(boxes.text.values[:2]) == ["drusen 0.50", "intraretinal_fluid 0.60"]
    for slice_index in (0, 7):
        viewer.dims.set_current_step(0, slice_index)
        visible = boxes.features[np.asarray(boxes._data_view._displayed, bool)]
        assert visible["slice"].tolist() == [slice_index] * 2
    # The drawn edges enclose the pixels: pixel 3 reaches from 2.5 to 3.5.
    assert boxes.data[0][:, 1:].min(axis=0).tolist() == [1.5, 2.5]
    assert boxes.data[0][:, 1:].max(axis=0).tolist() == [6.5, 9.5]


def test_results_lie_exactly_over_the_image(make_widget, qtbot):
    affine = np.eye(4)
    affine[1, 3] = 0.5
    viewer, widget = make_widget(**PLACE, affine=affine)
    widget.run()
    finish(qtbot, widget)
    image, *results = viewer.layers
    assert results
    for layer in results:
        assert layer.units == image.units and layer.axis_labels == image.axis_labels
        corners = np.array([[0, 0, 0], [11, 39, 59]])
        for corner in corners:
            assert np.allclose(layer.data_to_world(corner), image.data_to_world(corner))


def test_spacing_is_taken_only_from_units_of_length(make_widget, qtbot, pipeline, make_napari_viewer):
    _, widget = make_widget(scale=(240.0, 4.0, 12.0), units=("um", "um", "um"))
    widget.run()
    finish(qtbot, widget)
    assert pipeline.image.spacing == pytest.approx((0.24, 0.004, 0.012))
    assert pipeline.image.spacing_source is SpacingSource.USER
    viewer, widget = make_widget(scale=(20.0, 1.0, 3.0))
    widget.run()
    finish(qtbot, widget)
    assert pipeline.image.spacing is None and pipeline.image.spacing_source is SpacingSource.NONE
    assert "volume_mm3" not in labels_of(viewer)["drusen"].features


def test_colour_photograph(make_widget, qtbot, pipeline):
    viewer, widget = make_widget(FUNDUS, rgb=True)
    assert widget.form.modality_combo.modality() is Modality.CFP
    assert "90%" in widget.form.modality_combo.currentText()
    assert widget.form.target_list.offered() == ["vessel", "optic_disc"]
    assert not widget.form.slice_choice.isVisibleTo(widget)
    widget.run()
    finish(qtbot, widget)
    assert pipeline.image.rgb and pipeline.image.data.shape == FUNDUS.shape
    assert labels_of(viewer)["vessel"].data.shape == FUNDUS.shape[:2]
    assert boxes_of(viewer)[0].ndim == 2


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
    qtbot.waitUntil(lambda: pipeline.slices_done == [0, 1, 2, 3], timeout=20000)
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


def test_a_second_run_makes_new_layers_unless_told_to_replace(make_widget, qtbot):
    viewer, widget = make_widget()
    for _ in range(2):
        widget.run()
        finish(qtbot, widget)
    names = [layer.name for layer in viewer.layers][1:]
    assert names == ["drusen", "boxes", "drusen (run 2)", "boxes (run 2)"]
    viewer.add_labels(np.zeros(VOLUME.shape, int), name="mine")
    widget.form.replace.setChecked(True)
    widget.run()
    finish(qtbot, widget)
    assert [layer.name for layer in viewer.layers][1:] == ["mine", "drusen (run 3)", "boxes (run 3)"]


def test_slices(make_widget, qtbot, pipeline):
    viewer, widget = make_widget(**PLACE)
    choice = widget.form.slice_choice
    assert choice.isVisibleTo(widget)
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
    qtbot.waitUntil(lambda: "NaN" in widget.form.status.text(), timeout=5000)
    widget.form.modality_combo.set_modality(Modality.OCT)
    widget.run()
    finish(qtbot, widget)
    assert "'bad'" in errors()[-1] and "NaN" in errors()[-1] and not labels_of(viewer)


def test_four_axes_are_refused_with_advice(make_napari_viewer, pipeline, qtbot):
    viewer = make_napari_viewer()
    viewer.add_image(np.zeros((2, 3, 20, 20), np.uint8), name="film")
    widget = SegmentWidget(viewer)
    qtbot.addWidget(widget)
    assert "'film' has 4 axes" in widget.form.status.text()
    widget.form.modality_combo.set_modality(Modality.OCT)
    widget.run()
    assert "'film' has 4 axes" in errors()[-1] and idle(widget)


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
    assert widget.form.layer_combo.currentText() == "b" and widget.form.layer() is image
    viewer.layers.clear()
    assert widget.form.layer() is None and not widget.form.run_button.isEnabled()


def test_keys(make_widget, qtbot, gate):
    from qtpy.QtCore import Qt

    viewer, widget = make_widget()
    viewer.window._qt_window.show()
    viewer.window._qt_window.activateWindow()
    widget.form.free_text.setFocus()
    qtbot.waitUntil(widget.form.free_text.hasFocus, timeout=20000)
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
    qtbot.waitUntil(lambda: not progress._all_instances, timeout=5000)


def test_torch_can_be_imported_after_the_window_was_drawn():
    """Triton's LLVM crashes in a process in which Mesa has loaded its own: hence `_triton`."""
    code = ("import napari, sys; from qtpy.QtWidgets import QApplication; viewer = napari.Viewer(show=True);"
            "[QApplication.processEvents() for _ in range(5)]; assert 'torch' not in sys.modules;"
            "from napari_claps._triton import hide_triton_from_torch; hide_triton_from_torch();"
            "import torchvision; viewer.close()")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


def test_without_threads(make_widget, pipeline):
    viewer, widget = make_widget(threads=False)
    widget.run()
    assert idle(widget) and labels_of(viewer)["drusen"].data.any(axis=(1, 2)).all()
    assert pipeline.threads == {threading.current_thread().name}


def test_provenance_is_plain_json(make_widget, qtbot):
    import json

    viewer, widget = make_widget(**PLACE)
    widget.form.score.setValue(0.4)
    widget.run()
    finish(qtbot, widget)
    for layer in list(viewer.layers)[1:]:
        kept = json.loads(json.dumps(layer.metadata[KEY]))
        assert kept["bundle_sha256"] == MANIFEST.sha256 and kept["modality"] == "oct"
        assert kept["score_threshold"] == 0.4 and kept["spacing_mm"] == pytest.approx([0.24, 0.004, 0.012])
    assert labels_of(viewer)["drusen"].metadata[KEY]["prompt"] == "drusen in an OCT B-scan"
    assert labels_of(viewer)["drusen"].metadata[KEY]["presence"]["5"] == 0.8


def test_spin_boxes_do_not_touch_the_pixels(make_widget, qtbot):
    class Guarded(np.ndarray):
        reads = 0

        def __array__(self, *args, **kwargs):
            Guarded.reads += 1
            return super().__array__(*args, **kwargs)

        def __eq__(self, other):
            raise AssertionError("somebody compares whole images")

    _, widget = make_widget(np.zeros((64, 512, 512), np.uint8).view(Guarded))
    qtbot.wait(300)
    before, start = Guarded.reads, time.perf_counter()
    for value in np.linspace(0, 1, 50):
        widget.form.score.setValue(value)
        widget.form.slice_choice.first.setValue(int(value * 60))
    assert time.perf_counter() - start < 1.0
    assert Guarded.reads == before
