"""What cannot be in an eye is listed after a run, with the way to each place; nothing is changed."""

from __future__ import annotations

import dataclasses
import json
from types import MappingProxyType

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari_claps.plugin.doubt_layers import Kind, places_of
from napari_claps.plugin.layers import KEY, LayerSource, image_layer_data
from napari_claps.plugin.widgets import DoubtsWidget
from napari_claps.types import Box, Modality, RetinalImage, SliceResult
from tests.gui_checks import FUNDUS, PLACE, VOLUME, errors, finish, labels_of, wait_for_slices

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]

DISC, ANOTHER = (slice(10, 30), slice(10, 30)), (slice(40, 50), slice(50, 64))
BODY, ABOVE, FLICKER = (slice(25, 30), slice(5, 20)), (slice(4, 9), slice(40, 50)), (slice(2, 4), slice(30, 32))
SPECK = "0.01"  # severity of the flicker: its score 0.3, times its 4 pixels of 0.000048 mm2 over 0.01 mm2


def two_discs(index, guess, prompts, shape) -> SliceResult:
    """A disc and a second one; of other targets nothing."""
    masks = {p.label: np.zeros(shape, np.uint16) for p in prompts}
    for number, place in enumerate((DISC, ANOTHER), start=1):
        masks["optic_disc"][place] = number
    return SliceResult(index, guess, prompts, masks, (), {p.label: 0.9 for p in prompts}, {})


def fluid_in_the_vitreous(index, guess, prompts, shape) -> SliceResult:
    """The retina from row 20 on; fluid in it, and in slices 3 to 7 above it; a flicker above it in slice 9."""
    masks = {p.label: np.zeros(shape, np.uint16) for p in prompts}
    boxes = []
    if "retina" in masks:
        masks["retina"][20:] = 1
    places = [BODY] + [ABOVE] * (3 <= index <= 7) + [FLICKER] * (index == 9)
    for number, (y, x) in enumerate(places if index % 2 else places[::-1], start=1):
        masks["intraretinal_fluid"][y, x] = number
        score = 0.3 if (y, x) == FLICKER else 0.9
        boxes.append(Box(y.start, x.start, y.stop, x.stop, "intraretinal_fluid", score, index, number))
    presence = MappingProxyType({p.label: 0.1 for p in prompts})
    return SliceResult(index, guess, prompts, masks, tuple(boxes), presence, {})


def violations(layer):
    return [place for place in places_of(layer) if place.kind is Kind.ANATOMY]


def rows(widget):
    return [[widget.table.item(r, c).text() for c in range(4)] for r in range(widget.table.rowCount())]


def test_two_discs_in_a_photograph(make_widget, qtbot, pipeline):
    pipeline.find = two_discs
    viewer, widget = make_widget(FUNDUS, rgb=True, name="eye")
    widget.form.target_list.set_targets(["vessel", "optic_disc"])
    listed = DoubtsWidget(viewer)
    viewer.window.add_dock_widget(listed)
    widget.run()
    finish(qtbot, widget)
    layer = labels_of(viewer)["optic_disc"]
    assert (layer.data[DISC] == 1).all() and (layer.data[ANOTHER] == 2).all(), "nothing is changed"
    assert rows(listed) == [["0", "optic disc", "an eye has one optic disc, this is another", "anatomy"]]
    assert listed.status.text() == "1 place"
    listed.step(1)
    camera = getattr(viewer, "scene", viewer).camera
    assert np.allclose(layer.world_to_data(camera.center[-2:]), [44.5, 56.5]), "the middle of the second disc"
    assert listed.status.text() == "1 of 1: optic disc, object 2, an eye has one optic disc, this is another"
    assert widget.form.status.text().endswith("anatomy: optic_disc: an eye has one optic disc, this is "
                                              "another (listed, nothing was changed)")
    assert widget.form.doubts_button.isVisibleTo(widget) and widget.form.doubts_button.text() == "1 doubtful place…"
    (known,) = json.loads(json.dumps(layer.metadata[KEY]))["violations"]
    assert known["box"] == [40, 50, 50, 64] and known["label"] == "optic_disc"
    widget.run()
    assert not widget.form.doubts_button.isVisibleTo(widget), "the second run begins with none"
    finish(qtbot, widget)


def test_in_a_volume_with_numbers_of_the_volume(make_widget, qtbot, pipeline):
    pipeline.find = fluid_in_the_vitreous
    viewer, widget = make_widget(**PLACE)
    widget.form.target_list.set_targets(["intraretinal_fluid", "retina"])
    listed = DoubtsWidget(viewer)
    viewer.window.add_dock_widget(listed)
    widget.run()
    finish(qtbot, widget)
    assert not errors()
    layer = labels_of(viewer)["intraretinal_fluid"]
    assert (layer.data[3:8, *ABOVE] == 2).all(), "nothing is changed"
    assert not layer.data[9, *FLICKER].any(), "linking removed it"
    found = violations(layer)
    assert [(place.slice_index, place.instance) for place in found] == [(k, 2) for k in range(3, 8)]
    assert found[0].position == (3.0, 6.0, 44.5) and "above the upper edge of the retina mask" in found[0].reason
    assert [row[3] for row in rows(listed)] == ["anatomy"] * 5 + [SPECK], "what cannot be comes first"
    listed.table.sortItems(3)
    assert [row[3] for row in rows(listed)] == [SPECK] + ["anatomy"] * 5
    listed.table.setCurrentCell(0, 0)
    assert viewer.dims.current_step[0] == 9
    assert widget.form.doubts_button.text() == "6 doubtful places…"
    assert ", and 4 more (listed, nothing was changed)" in widget.form.status.text()


def test_they_are_listed_while_the_run_goes_on(make_widget, qtbot, pipeline, gate):
    def find(index, *asked):
        return dataclasses.replace(fluid_in_the_vitreous(index + 3, *asked), index=index, boxes=())

    pipeline.find = find
    viewer, widget = make_widget()
    widget.form.target_list.set_targets(["intraretinal_fluid", "retina"])
    listed = DoubtsWidget(viewer)
    viewer.window.add_dock_widget(listed)
    widget.run()
    qtbot.waitUntil(lambda: [row[0] for row in rows(listed)] == ["0", "1", "2"], timeout=60000)
    gate.set()
    finish(qtbot, widget)


def test_the_line_of_the_device_is_used(make_widget, qtbot, pipeline):
    pipeline.find = fluid_in_the_vitreous
    image = RetinalImage(VOLUME, modality=Modality.OCT, layers={"ILM": np.full((12, 60), 20.0)})
    data, options, _ = image_layer_data(image, "scan")
    viewer, widget = make_widget(data, **options)
    widget.form.target_list.set_targets(["intraretinal_fluid"])
    widget.run()
    finish(qtbot, widget)
    found = violations(labels_of(viewer)["intraretinal_fluid"])
    assert len(found) == 5 and "the inner limiting membrane of the device" in found[0].reason
    part = viewer.add_image(data[:, :30], metadata=options["metadata"])
    assert not LayerSource.of(part).image().layers, "the lines of the whole do not fit a part of it"


def test_a_layer_that_is_removed_takes_its_places_with_it(make_widget, qtbot, pipeline, gate):
    pipeline.find = fluid_in_the_vitreous
    viewer, widget = make_widget()
    widget.form.target_list.set_targets(["intraretinal_fluid", "retina"])
    listed = DoubtsWidget(viewer)
    viewer.window.add_dock_widget(listed)
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    viewer.layers.remove(labels_of(viewer)["intraretinal_fluid"])
    gate.set()
    finish(qtbot, widget)
    assert not errors() and not rows(listed)


@pytest.mark.parametrize("listed", [3, [3], [{}], [{"slice_index": 1, "instance": 0, "reason": "r", "position": [1]}]])
def test_metadata_that_is_no_list_of_violations(make_napari_viewer, listed):
    layer = make_napari_viewer().add_labels(np.zeros((9, 9), int), metadata={KEY: {"violations": listed}})
    assert list(places_of(layer)) == []
