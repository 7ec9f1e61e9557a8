"""Localizer, scan lines and layer lines beside an OCT volume, which must not notice."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image, Shapes
from napari.utils.notifications import notification_manager

from napari_claps.plugin.layers import KEY, LayerSource, image_layer_data, spacing_of
from napari_claps.plugin.localizer import show_layer_lines, show_localizer
from napari_claps.plugin.reader import get_reader
from napari_claps.plugin.session_read import read_layers
from napari_claps.plugin.session_write import write_layers
from napari_claps.types import Modality, RetinalImage, SpacingSource
from tests.vendor_fixtures import glyph, volume, write_vol

pytestmark = pytest.mark.gui

SPACING = (0.12, 0.004, 0.011)
N = 5


def oct_image(**changes) -> RetinalImage:
    """Five B-scans from the lower to the upper edge of an F."""
    ys = np.linspace(25, 5, N)
    lines = np.stack([[[y, 4.0], [y, 30.0]] for y in ys])
    localizer = RetinalImage(glyph(30, 36), modality=Modality.SLO, spacing=(0.05, 0.04), source="slo",
                             spacing_source=SpacingSource.FILE)  # fmt: skip
    depth = np.full((N, 32), 10.0, np.float32) + np.arange(N)[:, None]
    gap = depth + 9
    gap[:, 12:15], gap[3] = np.nan, np.nan
    image = RetinalImage(volume(N, 40, 32), modality=Modality.OCT, spacing=SPACING, spacing_source=SpacingSource.FILE,
                         source="eye.vol", localizer=localizer, scan_lines=lines, layers={"ILM": depth, "BM": gap})
    return dataclasses.replace(image, **changes)


@pytest.fixture
def viewer(make_napari_viewer):
    notification_manager.records.clear()
    viewer = make_napari_viewer()
    data, options, _ = image_layer_data(oct_image(), "eye")
    viewer.add_image(data, **options)
    viewer.dims.set_current_step(0, 2)
    return viewer


def warnings() -> list[str]:
    found = [str(record.message) for record in notification_manager.records]
    return [text for text in found if "Inconsistent units" not in text]  # of napari, where a test mixes images


def slider(viewer) -> tuple:
    """What the slider of a volume shows; a plane image has none."""
    dims = viewer.dims
    if dims.ndim == 2:
        return dims.ndim, dims.order, dims.displayed, dims.axis_labels
    return dims.ndim, dims.order, dims.range[0], dims.nsteps[0], dims.current_step[0], dims.displayed, dims.axis_labels


def test_the_slider_does_not_notice(viewer):
    before = slider(viewer)
    show_localizer(viewer)
    show_layer_lines(viewer)
    assert slider(viewer) == before
    assert len(viewer.layers) == 5 and viewer.layers.selection == {viewer.layers[0]}
    assert not warnings()
    viewer.dims.set_current_step(0, 4)
    assert viewer.dims.current_step[0] == 4


def test_localizer_has_its_own_scale_and_lies_beside_the_volume(viewer):
    show_localizer(viewer)
    eye, localizer, lines, in_view = viewer.layers
    assert isinstance(localizer, Image) and localizer.ndim == 2 and np.array_equal(localizer.data, glyph(30, 36))
    assert spacing_of(localizer) == pytest.approx((0.05, 0.04)) and localizer.units == eye.units[1:]
    assert LayerSource.of(localizer).modality is Modality.SLO, "it can be segmented as what it is"
    right, left = localizer.extent.world[1, 1] + 0.02, eye.extent.world[0, 2] - SPACING[2] / 2
    assert 0 < left - right < 0.1 * 32 * SPACING[2]
    assert lines.ndim == 2 and lines.nshapes == N and lines.features["slice"].tolist() == list(range(N))
    for z, line in enumerate(lines.data):  # as on the localizer, and in view in its own slice only
        assert np.allclose(line, oct_image().scan_lines[z])
        assert np.allclose(in_view.data[z][:, 1:], line) and set(in_view.data[z][:, 0]) == {z}
        assert np.allclose(in_view.data_to_world(in_view.data[z][0])[1:], lines.data_to_world(line[0]))
        assert in_view.data_to_world(in_view.data[z][0])[0] == pytest.approx(eye.data_to_world((z, 0, 0))[0])


def test_the_line_of_the_slice_in_view_lights_up(make_napari_viewer):
    viewer = make_napari_viewer(show=True)  # a hidden window draws nothing
    data, options, _ = image_layer_data(oct_image(), "eye")
    viewer.add_image(data, **options)
    show_localizer(viewer)
    lines, in_view = viewer.layers[2:]
    lines.visible, in_view.edge_width = False, 1.0  # this localizer is small
    canvas = []
    for z in (0, 4):
        viewer.dims.set_current_step(0, z)
        pixels = viewer.screenshot(flash=False)[..., :3].astype(int)
        yellow = pixels[..., 0] - pixels[..., 2] > 60
        assert yellow.any()
        canvas.append(np.flatnonzero(yellow.any(axis=1)).mean())
    assert canvas[0] > canvas[1], "the first B-scan is the lowest on the localizer"
    assert in_view.name == "scan line in view of eye"


def test_layer_lines_lie_on_the_volume(viewer):
    viewer.layers[0].translate = (1, 2, 3)
    show_layer_lines(viewer)
    eye, lines = viewer.layers
    table = lines.features
    assert isinstance(lines, Shapes) and set(table["line"]) == {"ILM", "BM"}
    assert (table["line"] == "ILM").sum() == N and (table["line"] == "BM").sum() == 2 * (N - 1), "a gap parts a line"
    first = lines.data[0]
    assert np.allclose(first[:, 1], 10) and first[:, 2].tolist() == list(range(32)) and set(first[:, 0]) == {0}
    assert np.allclose(lines.data_to_world(first[3]), eye.data_to_world(first[3])) and lines.units == eye.units
    assert len({tuple(colour) for colour in lines.edge_color}) == 2


def test_shown_once(viewer):
    show_localizer(viewer)
    viewer.layers["localizer of eye"].visible = False
    show_localizer(viewer)
    show_layer_lines(viewer)
    show_layer_lines(viewer)
    assert len(viewer.layers) == 5 and all(layer.visible for layer in viewer.layers)


def test_as_commands_of_napari(viewer, npe2pm, monkeypatch):
    """The menu finds the functions by their names in the manifest and gives them the viewer."""
    from npe2 import PluginManifest

    import napari_claps

    npe2pm.register(PluginManifest.from_file(Path(napari_claps.__file__).with_name("napari.yaml")))
    items = {item.command for item in npe2pm.iter_menu("napari/layers/visualize")}
    assert items == {"napari-claps.show_localizer", "napari-claps.show_layer_lines"}
    from napari._app_model import get_app_model

    for command in sorted(items):
        get_app_model().injection_store.inject(npe2pm.commands.get(command))()
    assert len(viewer.layers) == 5


def test_what_is_missing_is_said(viewer):
    viewer.layers.clear()
    show_localizer(viewer)
    plain, options, _ = image_layer_data(oct_image(localizer=None, scan_lines=None, layers={}), "bare")
    viewer.add_image(plain, **options)
    show_localizer(viewer)
    show_layer_lines(viewer)
    viewer.layers.clear()
    viewer.add_image(plain, name="of another program")
    show_localizer(viewer)
    for name in ("one", "two"):
        data, options, _ = image_layer_data(oct_image(), name)
        viewer.add_image(data, **options)
    viewer.layers.selection.clear()
    show_localizer(viewer)
    said = warnings()
    expected = (["no image", ".vol"], ["'bare'", "localizer"], ["'bare'", "layer lines"],
                ["No image has localizer", "CLAPS retina"], ["'one', 'two'"])  # fmt: skip
    for text, words in zip(said, expected, strict=True):
        assert all(word in text for word in words), text
    assert [layer.name for layer in viewer.layers] == ["of another program", "one", "two"]


def test_without_lengths_nothing_is_claimed(viewer):
    viewer.layers.clear()
    data, options, _ = image_layer_data(oct_image(spacing=None, spacing_source=SpacingSource.NONE), "star")
    eye = viewer.add_image(data, **options)
    before = slider(viewer)
    show_localizer(viewer)
    localizer = viewer.layers[1]
    assert spacing_of(localizer) is None and slider(viewer) == before
    assert np.ptp(localizer.extent.world[:, 1]) == pytest.approx(np.ptp(eye.extent.world[:, 2]), rel=0.1)


def test_localizer_survives_a_session(viewer, tmp_path):
    show_localizer(viewer)
    show_layer_lines(viewer)
    path = tmp_path / "s.claps.zip"
    write_layers(str(path), [layer.as_layer_data_tuple() for layer in viewer.layers])

    def places():
        return [(layer.name, layer.ndim, *layer.scale, *layer.translate) for layer in viewer.layers]

    before = places()
    viewer.layers.clear()
    for data, options, kind in read_layers(path):
        getattr(viewer, f"add_{kind}")(data, **options)
    assert places() == before
    del viewer.layers[1:]
    show_localizer(viewer)  # of the copy in the session
    assert len(viewer.layers) == 4


@pytest.mark.parametrize("pattern", [1, 2, 3, 5], ids=["line", "circle", "raster", "star"])
def test_vol_of_every_pattern(make_napari_viewer, tmp_path, pattern):
    pytest.importorskip("eyepy", reason="the extra 'formats' is not installed")
    path = tmp_path / "eye.vol"
    write_vol(path, pattern=pattern, n=1 if pattern < 3 else 5)
    check_file(make_napari_viewer(), path)


@pytest.mark.data
@pytest.mark.parametrize("name", ["eyepy_dummy_volume", "spectralis_circle_a", "spectralis_line_1bscan"])
def test_real_vol(make_napari_viewer, name):
    pytest.importorskip("eyepy", reason="the extra 'formats' is not installed")
    path = Path(os.environ["CLAPS_DATA"]) / "formats" / f"{name}.vol"
    check_file(make_napari_viewer(), path, inside="dummy" not in name)  # its lines are those of a larger localizer


def check_file(viewer, path: Path, *, inside: bool = True) -> None:
    ((data, options, _),) = get_reader(str(path))(str(path))
    eye = viewer.add_image(data, **options)
    before = slider(viewer)
    show_localizer(viewer)
    show_layer_lines(viewer)
    assert slider(viewer) == before
    contents = [layer.metadata[KEY].get("content") for layer in viewer.layers[1:]]
    assert contents[:2] == ["localizer", "scan lines"]
    assert ("scan line in view" in contents) == (eye.ndim == 3)
    localizer, lines = viewer.layers[1:3]
    low, high = localizer.extent.world
    points = [lines.data_to_world(point) for line in lines.data for point in line]
    assert not inside or all((low - 0.5 <= point).all() and (point <= high + 0.5).all() for point in points)
