"""Inner and outer masks in the Segment widget: which coverages are offered, and what a run shows of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from npe2 import PluginManifest
from qtpy.QtCore import Qt

import napari_claps
from napari_claps.models.bundles.manifest import Pair
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.widgets import EnFaceWidget
from napari_claps.plugin.widgets.coverage_combo import CoverageCombo
from napari_claps.settings import Settings
from napari_claps.types import Modality
from tests.fake_pipeline import PAIRS, result_of
from tests.gui_checks import FUNDUS, PLACE, VOLUME, finish, labels_of, wait_for_slices
from tests.plugin.test_linking import FLICKER, two_objects_and_a_flicker

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]

OCT = [pair for pair in PAIRS if pair.modality == Modality.OCT]


def with_band(find):
    """Results that have an inner mask without the last row of each object, and an outer one with the row under it."""
    def found(*asked):
        result = find(*asked)
        inner, outer = {}, {}
        for label, mask in result.masks.items():
            inner[label] = (mask > 0) & np.roll(mask > 0, -1, axis=0)
            outer[label] = (mask > 0) | np.roll(mask > 0, 1, axis=0)
        return dataclasses.replace(result, inner=inner, outer=outer)

    return found


def bands_of(viewer):
    return {layer.metadata[KEY]["label"]: layer for layer in viewer.layers
            if layer.metadata.get(KEY, {}).get("content") in ("inner", "outer")}


@pytest.fixture
def combo(qtbot):
    widget = CoverageCombo()
    qtbot.addWidget(widget.native)
    return widget


def offered(combo):
    return [combo.native.itemText(i) for i in range(len(combo))]


def test_what_is_offered(combo):
    assert not combo.enabled and combo.coverage() is None, "nothing is known yet"
    combo.set_pairs(OCT)
    assert combo.enabled and offered(combo) == ["off", "0.8", "0.9"] and combo.coverage() is None
    tips = [combo.native.itemData(i, Qt.ItemDataRole.ToolTipRole) for i in (1, 2)]
    assert tips == ["for drusen, intraretinal_fluid", "for drusen"]


def test_where_there_is_none_the_tool_tip_says_why(combo):
    combo.set_pairs([pair for pair in PAIRS if pair.modality == Modality.CFP])
    assert not combo.enabled and offered(combo) == ["off"]
    assert ("Not available in this modality: vessel: 2 calibration images are too few, 4 are needed; "
            "optic_disc: it was not calibrated.") in combo.tooltip
    combo.set_pairs([Pair(Modality.OCT, "shrm", n_inner=20, n_outer=20, outer={"0.8": 0.1})])
    assert not combo.enabled and "shrm: no threshold reaches it." in combo.tooltip, "both masks are needed"


def test_a_choice_comes_back_with_what_it_needs(combo, qtbot):
    changes = []
    combo.changed.connect(lambda: changes.append(combo.coverage()))
    combo.set_pairs(OCT)
    combo.show()
    qtbot.keyClick(combo.native, Qt.Key.Key_Down)
    qtbot.keyClick(combo.native, Qt.Key.Key_Down)
    assert combo.coverage() == 0.9
    combo.set_way("salip", None)
    assert combo.coverage() is None and not combo.enabled and "the method claps alone" in combo.tooltip
    combo.set_way("claps", 0.3)
    assert combo.coverage() is None and "'as trained'" in combo.tooltip
    combo.set_way("claps", None)
    assert combo.coverage() == 0.9 and combo.enabled
    combo.set_way("claps", None, mirrored=False)
    assert combo.coverage() == 0.9, "the bundle does not ask for it in this modality"
    combo.set_pairs(OCT, mirrored=True)
    assert combo.coverage() is None and "Tick 'Look at mirrored images too'" in combo.tooltip
    combo.set_way("claps", None)
    combo.set_pairs([])
    combo.set_pairs(OCT)
    assert combo.coverage() == 0.9 and changes == [0.8, 0.9, None, 0.9, None, 0.9, None, 0.9]


def test_targets_without_it_are_named_before_the_run(make_widget):
    _, widget = make_widget()
    form = widget.form
    form.advanced.coverage.choose(0.9)
    assert form.status.text() == ""
    form.target_list.set_targets(["drusen", "intraretinal_fluid", "retina"])
    form.free_text.setText("dark round holes; SHRM")
    said = form.status.text()
    assert "coverage 0.9 for: intraretinal_fluid (4 calibration images are too few, 9 are needed)" in said
    assert "retina (it was not calibrated); dark round holes (free text was not calibrated). Untick" in said
    form.advanced.coverage.choose(None)
    assert form.status.text() == ""


def test_the_summary_of_a_run_stays_while_targets_are_ticked(make_widget, qtbot):
    _, widget = make_widget()
    widget.run()
    finish(qtbot, widget)
    widget.form.target_list.set_targets(["drusen", "retina"])
    assert widget.form.status.text().startswith("Done")


def test_the_form_passes_method_and_score_on(make_widget, qtbot, pipeline):
    _, widget = make_widget()
    advanced = widget.form.advanced
    assert advanced.settings("b") == Settings(bundle="b"), "off by default"
    advanced.coverage.choose(0.8)
    advanced.fields["score_threshold"].value = 0.5
    assert not advanced.coverage.enabled
    advanced.fields["score_threshold"].value = None
    advanced.fields["method"].value = "medclip-sam"
    assert not advanced.coverage.enabled
    advanced.fields["method"].value = "claps"
    widget.run()
    finish(qtbot, widget)
    assert pipeline.settings == Settings(bundle="fake", coverage=0.8)
    widget.form.modality_combo.set_modality(Modality.CFP)
    assert not advanced.coverage.enabled and advanced.settings("b").coverage is None


def test_a_run_shows_them_slice_by_slice_where_the_image_is(make_widget, qtbot, pipeline, gate):
    pipeline.find = with_band(result_of)
    viewer, widget = make_widget(**PLACE)
    widget.form.target_list.set_targets(["drusen", "intraretinal_fluid"])
    widget.form.advanced.coverage.choose(0.8)
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    image, bands, masks = viewer.layers[0], bands_of(viewer), labels_of(viewer)
    assert [layer.name for layer in bands.values()] == ["drusen outer", "intraretinal fluid outer", "drusen inner",
                                                        "intraretinal fluid inner"]
    assert all(layer.data[:3].any(axis=(1, 2)).all() and not layer.data[3:].any() for layer in bands.values())
    gate.set()
    finish(qtbot, widget)
    for label, layer in bands.items():
        mask = masks[label.split()[0]].data > 0
        assert (layer.data.sum(axis=(1, 2)) == (42 if label.endswith("outer") else 28)).all()
        assert not (layer.data.astype(bool) & ~mask).any() or label.endswith("outer")
        assert layer.contour == 1 and layer.data.dtype == np.uint8, "an outline hides neither mask nor image"
        assert layer.units == image.units and layer.axis_labels == image.axis_labels
        assert np.allclose(layer.data_to_world((11, 39, 59)), image.data_to_world((11, 39, 59)))
        known = layer.metadata[KEY]
        assert known["provenance"]["coverage"] == 0.8
        assert known["target"] == label.split()[0] and len(known["presence"]) == 12
    layer = bands["drusen inner"]
    before = layer.data.copy()
    layer.data_setitem((np.array([1]), np.array([38]), np.array([50])), 1)
    layer.undo()
    assert (layer.data == before).all()


def test_earlier_ones_go_with_their_run(make_widget, qtbot, pipeline):
    pipeline.find = with_band(result_of)
    viewer, widget = make_widget()
    widget.form.advanced.replace.setChecked(True)
    for _ in range(2):
        widget.run()
        finish(qtbot, widget)
    assert [layer.name for layer in viewer.layers][1:] == ["drusen (run 2)", "drusen outer (run 2)",
                                                           "drusen inner (run 2)", "boxes (run 2)"]


def test_a_layer_that_is_removed_meanwhile(make_widget, qtbot, pipeline, gate):
    pipeline.find = with_band(two_objects_and_a_flicker)
    viewer, widget = make_widget()
    widget.run()
    wait_for_slices(qtbot, viewer, 3)
    viewer.layers.remove(bands_of(viewer)["drusen inner"])
    gate.set()
    finish(qtbot, widget)
    assert list(bands_of(viewer)) == ["drusen outer"] and widget.form.status.text().startswith("Done")
    assert bands_of(viewer)["drusen outer"].data.any(axis=(1, 2)).all()


def test_a_removed_flicker_is_not_sure(make_widget, qtbot, pipeline):
    pipeline.find = with_band(two_objects_and_a_flicker)
    viewer, widget = make_widget()
    widget.run()
    finish(qtbot, widget)
    inner, outer = bands_of(viewer)["drusen inner"].data, bands_of(viewer)["drusen outer"].data
    assert not inner[9, *FLICKER].any() and outer[9, *FLICKER].all(), "nor can it be excluded"
    assert not (inner.astype(bool) & (labels_of(viewer)["drusen"].data == 0)).any()


def test_no_layers_without_a_coverage(make_widget, qtbot):
    viewer, widget = make_widget(FUNDUS, rgb=True)
    widget.run()
    finish(qtbot, widget)
    assert not bands_of(viewer)


def test_saved_in_a_session_they_come_back(make_widget, qtbot, pipeline, npe2pm, tmp_path):
    npe2pm.register(PluginManifest.from_file(Path(napari_claps.__file__).with_name("napari.yaml")))
    pipeline.find = with_band(result_of)
    viewer, widget = make_widget(**PLACE)
    widget.form.advanced.coverage.choose(0.8)
    widget.run()
    finish(qtbot, widget)
    before = {label: (layer.data.copy(), layer.name, layer.opacity, layer.metadata[KEY])
              for label, layer in (bands_of(viewer) | labels_of(viewer)).items()}
    path = str(tmp_path / "eye.claps.zip")
    viewer.layers.save(path)
    viewer.layers.clear()
    viewer.open(path, plugin="napari-claps")
    after = bands_of(viewer) | labels_of(viewer)
    assert list(after) == list(before) == ["drusen outer", "drusen inner", "drusen"]
    for label, (data, name, opacity, known) in before.items():
        layer = after[label]
        assert (layer.data == data).all() and layer.name == name and layer.opacity == pytest.approx(opacity)
        assert layer.metadata[KEY].items() >= known.items()
        assert np.allclose(layer.scale, PLACE["scale"]) and layer.axis_labels == ("z", "y", "x")
    assert after["drusen"].metadata[KEY][napari_claps.plugin.session_style.SESSION]["settings"]["coverage"] == 0.8


def test_a_thickness_map_knows_where_nobody_looked(make_widget, qtbot, pipeline):
    pipeline.find = with_band(result_of)
    viewer, widget = make_widget(VOLUME, **PLACE)
    widget.form.slice_choice.mode.setCurrentText("every n-th slice")
    widget.run()
    finish(qtbot, widget)
    maps = EnFaceWidget(viewer, threads=False)
    viewer.window.add_dock_widget(maps)
    maps.map_combo.setCurrentText("thickness")
    maps.labels_combo.set_layer(bands_of(viewer)["drusen outer"])
    maps.make()
    found = viewer.layers[-1].data
    assert np.isnan(found[1::2]).all() and np.nanmax(found[::2]) == pytest.approx(6 * 4)
