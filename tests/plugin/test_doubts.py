"""The list of doubtful places: what is in it, and where it leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from npe2 import PluginManifest
from qtpy.QtCore import Qt

import napari_claps
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.widgets import DoubtsWidget
from tests.gui_checks import PLACE, VOLUME, finish

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]

DOUBTS = [
    {"slice_index": 2, "label": "drusen", "instance": 0, "reason": "removed flicker", "position": [2.0, 10.0, 20.0],
     "severity": 0.3},
    {"slice_index": 7, "label": "drusen", "instance": 4, "reason": "single slice", "position": [7.0, 30.0, 50.0],
     "severity": 0.8},
    {"slice_index": 5, "label": "drusen", "instance": 1, "reason": "sudden jump of area", "position": [5.0, 4.0, 9.0],
     "severity": 0.6},
]


def add_masks(viewer, doubts=None, name="drusen", **options):
    return viewer.add_labels(np.zeros(VOLUME.shape, np.uint16), name=name,
                             metadata={KEY: {"content": "masks", "doubts": DOUBTS if doubts is None else doubts}},
                             **{**PLACE, **options})


@pytest.fixture
def listed(make_napari_viewer):
    """A viewer with a volume, its masks and the list."""
    viewer = make_napari_viewer()
    viewer.add_image(VOLUME, **PLACE)
    layer = add_masks(viewer)
    widget = DoubtsWidget(viewer)
    viewer.window.add_dock_widget(widget)
    return viewer, layer, widget


def rows(widget):
    return [[widget.table.item(r, c).text() for c in range(3)] for r in range(widget.table.rowCount())]


def camera(viewer):
    return getattr(viewer, "scene", viewer).camera  # napari 0.9 moved it


def shown(viewer, layer):
    """Slice in view and pixel in the middle of the canvas."""
    centre = [viewer.dims.point[0], *camera(viewer).center[-2:]]
    return np.round(layer.world_to_data(centre), 3).tolist()


def test_the_most_severe_comes_first(listed):
    _, _, widget = listed
    assert rows(widget) == [["7", "drusen", "single slice"], ["5", "drusen", "sudden jump of area"],
                            ["2", "drusen", "removed flicker"]]  # fmt: skip
    assert widget.status.text() == "3 places" and widget.table.currentRow() == -1


def test_click_and_enter_jump_to_the_place(listed, qtbot):
    viewer, layer, widget = listed
    table = widget.table
    at = table.visualItemRect(table.item(1, 1)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert shown(viewer, layer) == [5, 4, 9]
    assert widget.status.text() == "2 of 3: drusen, object 1, sudden jump of area"
    viewer.dims.set_current_step(0, 0)
    camera(viewer).center = (0, 0, 0)
    qtbot.keyClick(table, Qt.Key.Key_Return)
    assert shown(viewer, layer) == [5, 4, 9], "Enter comes back to it"
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert shown(viewer, layer) == [2, 10, 20]


def test_next_and_previous_by_key_and_button(listed, qtbot):
    viewer, layer, widget = listed
    window = viewer.window._qt_window
    window.show()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=60000)
    canvas = viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    seen = []
    for modifier in [Qt.KeyboardModifier.NoModifier] * 4 + [Qt.KeyboardModifier.ShiftModifier]:
        qtbot.keyClick(canvas, Qt.Key.Key_F8, modifier)
        seen.append(shown(viewer, layer)[0])
    assert seen == [7, 5, 2, 7, 2], "after the last comes the first"
    widget.previous_button.click()
    assert shown(viewer, layer)[0] == 5
    widget.next_button.click()
    assert shown(viewer, layer)[0] == 2


def test_previous_begins_with_the_last(listed):
    viewer, layer, widget = listed
    widget.step(-1)
    assert shown(viewer, layer) == [2, 10, 20]


def test_sorted_by_slice_it_leads_to_the_same_places(listed):
    viewer, layer, widget = listed
    widget.table.sortItems(0, Qt.SortOrder.AscendingOrder)
    assert [row[0] for row in rows(widget)] == ["2", "5", "7"]
    widget.table.setCurrentCell(2, 0)
    assert shown(viewer, layer) == [7, 30, 50]


def test_in_three_dimensions_and_with_more_axes(listed):
    viewer, layer, widget = listed
    viewer.dims.ndisplay = 3
    widget.step(1)
    assert np.allclose(layer.world_to_data(camera(viewer).center), [7, 30, 50])
    viewer.dims.ndisplay = 2
    viewer.add_image(np.zeros((2, *VOLUME.shape), np.uint8), scale=(1, *PLACE["scale"]))
    widget.step(1)
    assert round(layer.world_to_data(viewer.dims.point[1:])[0]) == 5
    assert np.allclose(camera(viewer).center[-2:], layer.data_to_world([5, 4, 9])[1:])


def test_the_list_follows_the_layers(listed):
    viewer, layer, widget = listed
    add_masks(viewer, [{**DOUBTS[0], "severity": 1}], name="fluid")
    assert [row[1] for row in rows(widget)] == ["fluid", "drusen", "drusen", "drusen"]
    layer.name = "my drusen"
    assert rows(widget)[1][1] == "my drusen"
    viewer.layers.remove(layer)
    assert len(rows(widget)) == 1
    viewer.layers.clear()
    assert not rows(widget) and "No doubtful places" in widget.status.text()
    assert not widget.next_button.isEnabled()
    widget.step(1)


@pytest.mark.parametrize("doubts", [None, 3, "text", [3], [{}], [{**DOUBTS[0], "position": [1.0, 2.0]}],
                                    [{**DOUBTS[0], "position": [float("nan")] * 3}], [{**DOUBTS[0], "severity": "?"}]])
def test_metadata_that_is_no_list_of_places(make_napari_viewer, qtbot, doubts):
    viewer = make_napari_viewer()
    widget = DoubtsWidget(viewer)
    qtbot.addWidget(widget)
    viewer.add_labels(np.zeros(VOLUME.shape, np.uint16), metadata={KEY: {"doubts": doubts}})
    viewer.add_labels(np.zeros((9, 9), np.uint16), metadata={KEY: "other"})
    assert rows(widget) == []


def test_the_segment_widget_opens_it(make_widget, qtbot, pipeline, npe2pm):
    from tests.plugin.test_linking import two_objects_and_a_flicker

    npe2pm.register(PluginManifest.from_file(Path(napari_claps.__file__).with_name("napari.yaml")))
    pipeline.find = two_objects_and_a_flicker
    viewer, widget = make_widget()
    widget.run()
    finish(qtbot, widget)
    widget.form.doubts_button.click()
    _, listed = viewer.window.add_plugin_dock_widget("napari-claps", "Doubtful places")
    assert isinstance(listed, DoubtsWidget) and rows(listed) == [["9", "drusen", "removed flicker"]]
    assert len([d for d in viewer.window.dock_widgets if "Doubtful" in d]) == 1
