"""Objects of an OCT volume in the Segment widget: one number across B-scans, flickers damped, doubts listed."""

from __future__ import annotations

import json
import threading
from types import MappingProxyType

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from qtpy.QtCore import QTimer

from napari_claps.plugin.engine import Engine
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.widgets import run as run_module
from napari_claps.plugin.widgets.result_layers import ResultLayers
from napari_claps.plugin.widgets.run import State
from napari_claps.types import Box, Modality, SliceResult
from tests.gui_checks import FUNDUS, PLACE, boxes_of, errors, finish, labels_of, wait_for_slices

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]

LONG, SHORT, FLICKER = (slice(5, 12), slice(5, 15)), (slice(25, 32), slice(40, 50)), (slice(20, 22), slice(30, 32))


def two_objects_and_a_flicker(index, guess, prompts, shape) -> SliceResult:
    """One object in all slices, one in slices 3 to 7, and a flicker in slice 9; their numbers change by slice."""
    places = [LONG] + [SHORT] * (3 <= index <= 7) + [FLICKER] * (index == 9)
    masks, boxes = {}, []
    for prompt in prompts:
        mask = np.zeros(shape, np.uint16)
        for number, (y, x) in enumerate(places if index % 2 else places[::-1], start=1):
            mask[y, x] = number
            score = 0.3 if (y, x) == FLICKER else 0.9
            boxes.append(Box(y.start, x.start, y.stop, x.stop, prompt.label, score, index, number))
        masks[prompt.label] = mask
    presence = MappingProxyType({p.label: 0.1 for p in prompts})
    return SliceResult(index, guess, prompts, masks, tuple(boxes), presence, {})


@pytest.fixture
def volume_widget(make_widget, pipeline):
    pipeline.find = two_objects_and_a_flicker
    return make_widget


def test_an_object_has_one_number_across_slices(volume_widget, qtbot, pipeline):
    viewer, widget = volume_widget()
    widget.run()
    finish(qtbot, widget)
    assert not errors() and pipeline.slices_done == list(range(12))
    layer = labels_of(viewer)["drusen"]
    assert (layer.data[:, *LONG] == 1).all() and (layer.data[3:8, *SHORT] == 2).all()
    assert not layer.data[9, *FLICKER].any(), "the flicker is damped"
    assert np.unique(layer.data).tolist() == [0, 1, 2]
    assert layer.features[["instance", "pixels", "slices"]].to_dict("list") == {
        "instance": [1, 2], "pixels": [70 * 12, 70 * 5], "slices": [12, 5]}  # fmt: skip
    (boxes,) = boxes_of(viewer)
    assert boxes.nshapes == len(boxes.features) == 17
    for (y, _), number in ((LONG, 1), (SHORT, 2)):
        rows = [i for i, corners in enumerate(boxes.data) if corners[:, 1].min() == y.start - 0.5]
        assert set(boxes.features["instance"][rows]) == {number}
    assert set(boxes.text.values) == {"drusen 0.90"}, "the box of the flicker went with it"
    assert "drusen: 2 objects in 12 slices" in widget.form.status.text()


def test_slices_appear_before_they_are_linked(volume_widget, qtbot, gate):
    viewer, widget = volume_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    assert labels_of(viewer)["drusen"].data[:3].any(axis=(1, 2)).all()
    assert "doubts" not in labels_of(viewer)["drusen"].metadata[KEY]
    gate.set()
    finish(qtbot, widget)
    assert labels_of(viewer)["drusen"].metadata[KEY]["linked"] is True


def test_switched_off(volume_widget, qtbot, pipeline):
    viewer, widget = volume_widget()
    assert widget.form.advanced.link.isChecked(), "on by default"
    widget.form.advanced.link.setChecked(False)
    widget.run()
    finish(qtbot, widget)
    layer = labels_of(viewer)["drusen"]
    assert pipeline.settings.link_slices is False
    assert layer.metadata[KEY]["provenance"]["request"]["link_slices"] is False
    assert layer.data[9, *FLICKER].all() and np.unique(layer.data[:, *LONG]).tolist() == [1, 2]
    assert "linked" not in layer.metadata[KEY] and not widget.form.doubts_button.isVisibleTo(widget)


@pytest.mark.parametrize("case", ["photograph", "angiogram", "one slice"])
def test_only_b_scans_are_linked(volume_widget, qtbot, pipeline, case):
    viewer, widget = volume_widget(**(dict(data=FUNDUS, rgb=True) if case == "photograph" else {}))
    pipeline.find = two_objects_and_a_flicker
    if case == "angiogram":
        widget.form.modality_combo.set_modality(Modality.CFP)
    elif case == "one slice":
        widget.form.slice_choice.mode.setCurrentText("the slice in view")
    widget.run()
    finish(qtbot, widget)
    assert not errors() and not any(layer.metadata[KEY].get("linked") for layer in labels_of(viewer).values())


def test_what_was_painted_meanwhile_stays(volume_widget, qtbot, gate):
    viewer, widget = volume_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    layer = labels_of(viewer)["drusen"]
    layer.data_setitem((np.array([1, 1]), np.array([38, 39]), np.array([50, 50])), 9)
    gate.set()
    finish(qtbot, widget)
    assert layer.data[1, 38:, 50].tolist() == [9, 9]
    assert layer.features["instance"].tolist() == [1, 2, 9]


def test_a_cancelled_run_is_linked_as_far_as_it_went(volume_widget, qtbot, pipeline, gate):
    viewer, widget = volume_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    widget.runner.cancel()
    gate.set()
    finish(qtbot, widget)
    layer = labels_of(viewer)["drusen"]
    assert widget.form.status.text().startswith("Cancelled") and pipeline.slices_done == [0, 1, 2, 3]
    assert set(np.unique(layer.data[:3, *LONG])) == {1} and layer.metadata[KEY]["linked"]


def test_a_failed_run_is_linked_as_far_as_it_went(volume_widget, qtbot, pipeline):
    viewer, widget = volume_widget()
    pipeline.error, pipeline.error_at = RuntimeError("torch broke"), 6
    widget.run()
    finish(qtbot, widget)
    assert errors() == ["torch broke"]
    layer = labels_of(viewer)["drusen"]
    assert (layer.data[:6, *LONG] == 1).all() and (layer.data[3:6, *SHORT] == 2).all()


def test_linking_leaves_the_window_its_turn(volume_widget, qtbot, monkeypatch):
    ticks, seen, threads = [], [], set()
    complete, finish_study = ResultLayers.complete, Engine.finish

    def watched(self, findings):
        for plane in complete(self, findings):
            seen.append(len(ticks))
            yield plane

    def in_thread(self, study):
        threads.add(threading.current_thread().name)
        return finish_study(self, study)

    monkeypatch.setattr(ResultLayers, "complete", watched)
    monkeypatch.setattr(Engine, "finish", in_thread)
    monkeypatch.setattr(run_module.Run._renumber, "__defaults__", (0.0,))
    _, widget = volume_widget()
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(0)
    states = []
    widget.runner.state_changed.connect(states.append)
    widget.run()
    finish(qtbot, widget)
    timer.stop()
    assert len(seen) == 12 and (np.diff(seen) > 0).all(), "the event loop turns between planes"
    assert threads and threading.current_thread().name not in threads
    assert states == [State.RUNNING, State.FINISHING, State.IDLE]


def test_layers_deleted_before_the_numbers_come(volume_widget, qtbot, monkeypatch):
    viewer, widget = volume_widget()
    widget.form.target_list.set_targets(["drusen", "intraretinal_fluid"])

    def delete(state):
        if state is State.FINISHING:
            viewer.layers.remove(labels_of(viewer)["drusen"])
            viewer.layers.remove(boxes_of(viewer)[0])

    widget.runner.state_changed.connect(delete)
    widget.run()
    finish(qtbot, widget)
    assert list(labels_of(viewer)) == ["intraretinal_fluid"] and not errors()
    assert (labels_of(viewer)["intraretinal_fluid"].data[3:8, *SHORT] == 2).all()


def test_doubts_are_kept_as_plain_json(volume_widget, qtbot):
    viewer, widget = volume_widget(**PLACE)
    widget.run()
    finish(qtbot, widget)
    known = json.loads(json.dumps(labels_of(viewer)["drusen"].metadata[KEY]))
    (doubt,) = known["doubts"]
    assert doubt["reason"] == "removed flicker" and doubt["slice_index"] == 9
    assert doubt["position"] == [9.0, 20.5, 30.5] and doubt["label"] == "drusen"
    assert widget.form.doubts_button.isVisibleTo(widget) and widget.form.doubts_button.text() == "1 doubtful place…"


def test_without_threads(volume_widget):
    viewer, widget = volume_widget(threads=False)
    widget.run()
    assert widget.runner.state is State.IDLE
    assert np.unique(labels_of(viewer)["drusen"].data).tolist() == [0, 1, 2]
