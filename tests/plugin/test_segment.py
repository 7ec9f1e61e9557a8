"""The Segment widget in a real viewer: what a run puts into the layers."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari_claps.plugin.layers import KEY
from napari_claps.types import SpacingSource
from tests.fake_pipeline import MANIFEST, result_of
from tests.gui_checks import PLACE, VOLUME, boxes_of, finish, idle, labels_of

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]


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
    said = widget.form.status.text()
    assert "12 of 12 slices" in said and "drusen: 1 object in 12 slices" in said
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


def test_a_second_run_makes_new_layers_unless_told_to_replace(make_widget, qtbot):
    viewer, widget = make_widget()
    for _ in range(2):
        widget.run()
        finish(qtbot, widget)
    names = [layer.name for layer in viewer.layers][1:]
    assert names == ["drusen", "boxes", "drusen (run 2)", "boxes (run 2)"]
    viewer.add_labels(np.zeros(VOLUME.shape, int), name="mine")
    widget.form.advanced.replace.setChecked(True)
    widget.run()
    finish(qtbot, widget)
    assert [layer.name for layer in viewer.layers][1:] == ["mine", "drusen (run 3)", "boxes (run 3)"]


def test_without_threads(make_widget, pipeline):
    viewer, widget = make_widget(threads=False)
    widget.run()
    assert idle(widget) and labels_of(viewer)["drusen"].data.any(axis=(1, 2)).all()
    assert pipeline.threads == {threading.current_thread().name}


def test_provenance_is_plain_json(make_widget, qtbot):
    import json

    viewer, widget = make_widget(**PLACE)
    widget.form.advanced.fields["score_threshold"].value = 0.4
    widget.run()
    finish(qtbot, widget)
    for layer in list(viewer.layers)[1:]:
        kept = json.loads(json.dumps(layer.metadata[KEY]))["provenance"]
        assert kept["bundle"]["sha256"] == MANIFEST.sha256 and kept["modality"]["id"] == "oct"
        assert kept["score_threshold"] == 0.4 and kept["spacing"]["mm"] == pytest.approx([0.24, 0.004, 0.012])
    assert labels_of(viewer)["drusen"].metadata[KEY]["prompt"] == "drusen in an OCT B-scan"
    assert labels_of(viewer)["drusen"].metadata[KEY]["presence"]["5"] == 0.8


def test_uncertainty_becomes_image_layers(make_widget, qtbot, pipeline):
    def uncertain(index, guess, prompts, shape):
        maps = {p.label: np.full(shape, 0.25 * (n + 1), np.float32) for n, p in enumerate(prompts)}
        return dataclasses.replace(result_of(index, guess, prompts, shape), uncertainty=maps)

    pipeline.find = uncertain
    viewer, widget = make_widget(**PLACE)
    widget.form.target_list.set_targets(["drusen", "intraretinal_fluid"])
    widget.form.slice_choice.mode.setCurrentText("every n-th slice")
    widget.run()
    finish(qtbot, widget)
    image = viewer.layers[0]
    found = [layer for layer in viewer.layers if layer.name.startswith("uncertainty")]
    assert [layer.name for layer in found] == ["uncertainty drusen", "uncertainty intraretinal fluid"]
    assert [layer.visible for layer in found] == [True, False], "two maps over each other would tell nothing"
    for number, layer in enumerate(found):
        assert (layer.data[::2] == 0.25 * (number + 1)).all() and np.isnan(layer.data[1::2]).all()
        assert tuple(layer.contrast_limits) == (0, 1) and layer.metadata[KEY]["unit"] == "bit"
        assert layer.units == image.units and np.allclose(layer.scale, image.scale)
    assert widget.form.layer_combo.choices == (image,), "a map is no image to segment"
    widget.form.advanced.replace.setChecked(True)
    pipeline.find = result_of
    widget.run()
    finish(qtbot, widget)
    assert not any(layer.name.startswith("uncertainty") for layer in viewer.layers)
