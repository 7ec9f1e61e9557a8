"""The En-face maps widget: what is projected, between which surfaces, and where the map lies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.utils.notifications import notification_manager

from napari_claps.plugin.layers import KEY
from napari_claps.plugin.origin import ORIGIN, Origin
from napari_claps.plugin.widgets import EnFaceWidget
from napari_claps.plugin.widgets import enface as enface_module
from napari_claps.types import RetinalImage
from tests.gui_checks import FUNDUS, PLACE, VOLUME, errors

pytestmark = pytest.mark.gui
DEPTH, HEIGHT, WIDTH = VOLUME.shape


@pytest.fixture
def make(make_napari_viewer):
    """A viewer with a volume and the widget, which works in the calling thread unless told otherwise."""
    notification_manager.records.clear()

    def make(data=VOLUME, *, threads=False, **options):
        viewer = make_napari_viewer()
        viewer.add_image(data, name="macula", **options)
        widget = EnFaceWidget(viewer, threads=threads)
        viewer.window.add_dock_widget(widget)
        return viewer, widget

    return make


def slab(top=10, bottom=17):
    labels = np.zeros(VOLUME.shape, np.uint16)
    labels[:, top:bottom, 5:50] = 3
    return labels


def map_of(viewer):
    return viewer.layers[-1]


def test_mean_projection_of_the_whole_depth(make):
    viewer, widget = make(**PLACE)
    widget.button.click()
    found = map_of(viewer)
    assert found.name == "mean projection of macula"
    np.testing.assert_allclose(found.data, VOLUME.mean(axis=1), rtol=1e-6)
    assert found.data.shape == (DEPTH, WIDTH) and found.ndim == 2
    assert found.scale.tolist() == [0.24, 0.012] and found.axis_labels == ("z", "x")
    assert [str(u) for u in found.units] == ["millimeter"] * 2
    assert found.metadata[KEY]["unit"] == "grey" and found.metadata[KEY]["spacing_mm"] == [0.24, 0.012]
    assert found.contrast_limits == pytest.approx([found.data.min(), found.data.max()])


def test_a_map_lies_under_the_volume_and_the_next_one_under_it(make):
    viewer, widget = make(**PLACE)
    volume, n_steps = viewer.layers[0], viewer.dims.nsteps
    widget.make()
    first = map_of(viewer)
    widget.map_combo.setCurrentText("maximum projection")
    widget.make()
    second = map_of(viewer)
    np.testing.assert_allclose(second.data, VOLUME.max(axis=1))
    assert first.extent.world[0][0] > volume.extent.world[1][1]
    assert second.extent.world[0][0] > first.extent.world[1][0]
    for column in (0, 33):
        assert first.data_to_world((0, column))[1] == pytest.approx(volume.data_to_world((0, 0, column))[2])
    assert viewer.dims.ndim == 3 and viewer.dims.nsteps[0] == n_steps[0], "the slider of the volume stays as it is"


def test_between_the_edges_of_a_mask(make):
    viewer, widget = make()
    viewer.add_labels(slab(), name="retina")
    widget.choose_surfaces("top of retina", "bottom of retina")
    widget.make()
    found = map_of(viewer)
    np.testing.assert_allclose(found.data[:, 5:50], VOLUME[:, 10:17, 5:50].mean(axis=1), rtol=1e-6)
    assert np.isnan(found.data[:, :5]).all() and np.isnan(found.data[:, 50:]).all()
    assert found.metadata[KEY] | {"top": "top of retina", "bottom": "bottom of retina"} == found.metadata[KEY]
    assert "25% unknown" in widget.status.text() and found.name.startswith("mean projection top of retina to bottom")


def test_between_layer_lines_of_the_file_and_lines_that_were_drawn(make):
    lines = {"ILM": np.full((DEPTH, WIDTH), 8.0), "BM": np.full((DEPTH, WIDTH), 30.0)}
    lines["ILM"][:, 7] = np.nan
    origin = Origin(RetinalImage(VOLUME, layers=lines))
    viewer, widget = make(metadata={ORIGIN: origin}, **PLACE)
    widget.choose_surfaces("ILM (device)", "BM (device)")
    widget.make()
    expected = VOLUME[:, 8:30].mean(axis=1)
    expected[:, 7] = np.nan
    np.testing.assert_allclose(map_of(viewer).data, expected, rtol=1e-6)
    # The same lower line drawn by hand, in two pieces, from right to left, in pixels of another layer.
    pieces = [np.array([(z, 15, b), (z, 15, a)], float) for z in range(DEPTH) for a, b in ((0, 30), (31, 59))]
    viewer.add_shapes(pieces, shape_type="path", name="mine", features=pd.DataFrame({"line": ["BM"] * len(pieces)}),
                      **{**PLACE, "scale": (0.24, 0.008, 0.012)})
    widget.choose_surfaces("ILM (device)", "BM")
    widget.make()
    np.testing.assert_allclose(map_of(viewer).data, expected, rtol=1e-6)


def test_thickness_in_micrometres(make):
    viewer, widget = make(**PLACE)
    viewer.add_labels(slab(), name="retina", **PLACE)
    widget.map_combo.setCurrentText("thickness")
    assert widget.labels_combo.native.isVisibleTo(widget) and not widget.volume_combo.native.isVisibleTo(widget)
    widget.make()
    found = map_of(viewer)
    assert found.name == "thickness retina (um)" and found.metadata[KEY]["unit"] == "um"
    np.testing.assert_allclose(found.data[:, 5:50], 28, rtol=1e-6)
    assert (found.data[:, :5] == 0).all() and found.contrast_limits == pytest.approx([0, 28])
    assert found.scale.tolist() == [0.24, 0.012]
    assert "um on average" in widget.status.text()


def test_thickness_without_spacing_is_in_pixels(make):
    viewer, widget = make()
    viewer.add_labels(slab(), name="retina")
    widget.map_combo.setCurrentText("thickness")
    widget.make()
    found = map_of(viewer)
    assert found.name == "thickness retina (px)" and found.metadata[KEY]["unit"] == "px"
    assert found.data.max() == 7 and found.metadata[KEY]["spacing_mm"] is None
    assert [str(u) for u in found.units] == ["pixel"] * 2


@pytest.mark.parametrize("said", [{"region": [0, 10, 40, 20]}, {"provenance": {"region": [0, 10, 40, 20]}}])
def test_thickness_is_unknown_where_nobody_looked(make, said):
    viewer, widget = make()
    known = {"content": "masks", "label": "retina", "presence": {"2": 0.9, "3": 0.1}, **said}
    viewer.add_labels(slab(), name="retina", metadata={KEY: known})
    widget.map_combo.setCurrentText("thickness")
    widget.make()
    data = map_of(viewer).data
    assert (data[2:4, 10:20] == 7).all() and np.isfinite(data).sum() == 20


def test_an_absent_target_has_no_thickness(make):
    viewer, widget = make()
    viewer.add_labels(np.zeros(VOLUME.shape, np.uint16), name="drusen")
    widget.map_combo.setCurrentText("thickness")
    widget.make()
    assert (map_of(viewer).data == 0).all() and not errors()


def test_micrometres_as_the_unit_of_the_layer(make):
    viewer, widget = make(scale=(240.0, 4.0, 12.0), units=("um",) * 3)
    viewer.add_labels(slab(), name="retina", scale=(240.0, 4.0, 12.0), units=("um",) * 3)
    widget.map_combo.setCurrentText("thickness")
    widget.make()
    found = map_of(viewer)
    assert found.data.max() == pytest.approx(28) and found.scale.tolist() == [240.0, 12.0]
    assert [str(u) for u in found.units] == ["micrometer"] * 2


def test_what_cannot_be_made_is_said(make):
    viewer, widget = make()
    viewer.add_labels(slab(), name="retina")
    viewer.add_image(FUNDUS, rgb=True, name="photograph")
    assert [layer.name for layer in widget.volume_combo.choices] == ["macula"]
    n_layers = len(viewer.layers)
    widget.choose_surfaces("bottom of retina", "top of retina")
    widget.make()
    assert "exchange them" in errors()[-1] and widget.status.text().startswith("Failed.")
    viewer.layers.remove("macula")
    widget.make()
    assert "Open an OCT volume" in errors()[-1]
    viewer.layers.remove("retina")
    widget.map_combo.setCurrentText("thickness")
    widget.make()
    assert "Segment a volume" in errors()[-1] and len(viewer.layers) == n_layers - 2


def test_surfaces_follow_the_layers(make):
    viewer, widget = make()
    layer = viewer.add_labels(slab(), name="retina")
    viewer.add_labels(np.zeros((3, 4, 5), int), name="of another volume")
    assert widget.top_combo.current_choice == "top of the volume"
    assert [surface and surface.name for surface in widget.top_combo.choices] == [
        None, "top of retina", "bottom of retina"]  # fmt: skip
    widget.choose_surfaces("bottom of retina", None)
    viewer.add_labels(slab(20, 25), name="rpe")
    assert widget.top_combo.current_choice == "bottom of retina", "a new layer does not change the choice"
    viewer.layers.remove(layer)
    assert widget.top_combo.current_choice == "top of the volume"


def test_in_a_thread_and_removed_meanwhile(make, qtbot, monkeypatch):
    import threading

    opened, names = threading.Event(), []
    project = enface_module.project

    def slow(*args, **kwargs):
        names.append(threading.current_thread().name)
        assert opened.wait(60)
        return project(*args, **kwargs)

    monkeypatch.setattr(enface_module, "project", slow)
    viewer, widget = make(threads=True)
    widget.make()
    assert not widget.button.isEnabled()
    widget.make()
    opened.set()
    qtbot.waitUntil(widget.button.isEnabled, timeout=60000)
    assert len(viewer.layers) == 2 and len(names) == 1 and names[0] != threading.current_thread().name
    opened.clear()
    widget.make()
    viewer.layers.remove("macula")
    opened.set()
    qtbot.waitUntil(widget.button.isEnabled, timeout=60000)
    assert "was removed" in widget.status.text() and len(viewer.layers) == 1 and not errors()
