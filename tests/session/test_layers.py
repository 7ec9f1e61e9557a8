"""Layers of a viewer through a session file and back, by the reader and writer that napari finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Labels, Layer, Shapes
from napari.utils.colormaps import Colormap
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest

import napari_claps
from napari_claps.errors import InputError, OutputError
from napari_claps.plugin.layers import (
    KEY,
    box_colours,
    box_corners,
    box_features,
    box_style,
    image_layer_data,
    mask_colormap,
    plain,
)
from napari_claps.plugin.origin import origin_of
from napari_claps.plugin.reader import get_reader
from napari_claps.plugin.session_style import SESSION
from napari_claps.plugin.session_write import write_layers
from napari_claps.results.export import export
from napari_claps.session import BoxLayer, ImageReference, MaskLayer, Session, read_session, write_session
from napari_claps.types import Box, BoxSource, Modality, RetinalImage, SpacingSource
from tests.provenance_examples import RECORD
from tests.saved_results import write_result

PLACE = dict(scale=(0.24, 0.004, 0.012), translate=(1.0, 2.0, 3.0), units=("mm", "mm", "mm"),
             axis_labels=("z", "y", "x"), rotate=np.eye(3)[[0, 2, 1]], shear=(0, 0.1, 0))  # fmt: skip
VOLUME = np.random.default_rng(0).integers(0, 255, (5, 32, 40), dtype=np.uint8)
BOXES = (
    Box(2, 3, 7, 10, label="drusen", score=0.75, slice_index=0, instance=1),
    Box(4.5, 6, 9, 12.25, label="intraretinal_fluid", score=0.5, slice_index=3, instance=2, source=BoxSource.MASK),
)
ASKED = {**RECORD["request"], "seed": 3, "score_threshold": 0.25, "modality": "oct", "region": None}
RUN = {"shape": [5, 32, 40], "spacing_mm": [0.24, 0.004, 0.012], "spacing_source": "file",
       "provenance": {**RECORD, "linked": True, "request": ASKED}}  # fmt: skip


@pytest.fixture
def plugin(npe2pm):
    npe2pm.register(PluginManifest.from_file(Path(napari_claps.__file__).with_name("napari.yaml")))
    notification_manager.records.clear()
    return "napari-claps"


def fill(viewer, path: Path) -> None:
    """One layer of every kind, none of them with the looks that it has by itself."""
    spacing = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", (12, 4, 240), strict=True)}
    tifffile.imwrite(path, VOLUME, ome=True, metadata={"axes": "ZYX", **spacing})
    (image,) = viewer.open(path, plugin="napari-claps")
    image.contrast_limits, image.gamma, image.colormap, image.name = (10, 180), 0.7, "magma", "macula (corrected)"
    fire = Colormap([[0, 0, 0, 1], [1, 0.5, 0, 1]], name="fire")
    viewer.add_image(VOLUME.astype(np.float32) / 255, name="map", colormap=fire,
                     opacity=0.4, visible=False, blending="additive", interpolation2d="linear", **PLACE)
    viewer.add_image(np.stack([VOLUME[0], VOLUME[1], VOLUME[2]], axis=-1), rgb=True, name="photograph")
    rng = np.random.default_rng(1)
    for number, (label, dtype) in enumerate((("drusen", np.uint16), ("my own words", np.int32))):
        masks = rng.integers(0, 4, VOLUME.shape).astype(dtype)
        features = pd.DataFrame({"index": [1, 2, 3], "note": ["a", "b", None], "score": [0.1, 2, 3]})
        metadata = {KEY: {"content": "masks", "label": label, **RUN, "run": number, "presence": {"0": 0.5}}}
        viewer.add_labels(masks, name=f"{label} (run 2)", features=features, colormap=mask_colormap(label),
                          opacity=0.3 + 0.1 * number, metadata=metadata, **PLACE)
    viewer.add_labels(VOLUME[0] // 64, colormap={1: "red", 2: (0.25, 0.5, 1, 0.5), None: "yellow"}, visible=False)
    viewer.add_labels(VOLUME[0] // 64, name="as napari paints")
    boxes = viewer.add_shapes(
        [box_corners(box, is_volume=True) for box in BOXES], ndim=3, features=box_features(BOXES).assign(mine=[1, 2]),
        name="boxes", edge_color=box_colours(BOXES), metadata={KEY: {"shape": [5, 32, 40], "content": "boxes"}},
        **(box_style((32, 40)) | {"face_color": [[0, 0, 1, 0.1], [0, 0, 0, 0]]}), **PLACE,
    )  # fmt: skip
    boxes.feature_defaults = {"label": "drusen", "score": 1.0, "slice": 0, "source": "user", "instance": 0, "mine": 9}
    viewer.add_shapes(
        [np.array([[1, 2.5, 3], [1, 9, 9], [1, 4, 20]]), np.array([[2, 4, 4], [2, 4, 9], [2, 9, 9], [2, 9, 4]])],
        shape_type=["path", "ellipse"], edge_color=["red", "blue"], edge_width=[1, 2.5], name="lines",
        features=pd.DataFrame({"line": ["ILM", "BM"]}), text="line", **PLACE,
    )  # fmt: skip
    viewer.add_points([[0, 1.5, 2], [3, 4, 5]], size=[3, 4], symbol=["x", "disc"], face_color=["red", "#00ff0080"],
                      features={"positive": [True, False]}, name="clicks", metadata={KEY: {"content": "x"}}, **PLACE)
    viewer.add_shapes(None, ndim=3, features=box_features(()), name="no boxes", **box_style((32, 40)), **PLACE)
    viewer.add_shapes(None, ndim=2, name="nothing drawn")
    viewer.add_points(None, ndim=3, name="nothing clicked")


def everything(layer: Layer) -> dict:
    """All that napari keeps of a layer, in plain types; our metadata without what only leads to the file."""
    data, attributes, kind = layer.as_layer_data_tuple()
    if kind == "labels":
        colormap = attributes.pop("colormap")
        attributes["colours"] = colormap.map(np.arange(6, dtype=np.uint8))
        attributes["colormap"] = type(colormap).__name__
    for table in ("features", "feature_defaults"):
        if table in attributes:
            found = attributes[table]
            attributes[table] = found.to_dict("list"), [str(kind) for kind in found.dtypes]
    known = attributes["metadata"].get(KEY)
    known = None if known is None else {key: value for key, value in known.items() if key != SESSION}
    attributes["metadata"] = known or None
    arrays = data if isinstance(data, list) else [data]
    return plain(attributes) | {"type": kind, "dtypes": [str(a.dtype) for a in arrays],
                                "data": [np.asarray(a).tolist() for a in arrays]}


def assert_same(before: list[dict], viewer) -> None:
    after = [everything(layer) for layer in viewer.layers]
    assert [layer["name"] for layer in after] == [layer["name"] for layer in before]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for key in old:
            if isinstance(old[key], float):
                assert new[key] == pytest.approx(old[key]), (old["name"], key)
            else:
                assert new[key] == old[key], (old["name"], key)


def round_trip(viewer, folder: Path) -> Path:
    fill(viewer, folder / "macula.ome.tif")
    before = [everything(layer) for layer in viewer.layers]
    session = folder / "eye é 1.claps.zip"
    assert viewer.layers.save(str(session)) == [str(session)]
    viewer.layers.clear()
    opened = viewer.open(session, plugin="napari-claps")
    assert len(opened) == len(before)
    assert_same(before, viewer)
    return session


def test_everything_comes_back(tmp_path, plugin):
    viewer = ViewerModel()
    session = round_trip(viewer, tmp_path)
    found = read_session(session)
    assert isinstance(found.layers[0].image, ImageReference) and str(tmp_path) not in repr(found.provenance)
    assert found.settings.seed == 3 and found.settings.score_threshold == 0.25
    assert found.targets == ("drusen", "my own words") and found.provenance["linked"] is True
    assert [type(layer) for layer in found.layers].count(BoxLayer) == 2
    assert next(layer for layer in found.layers if isinstance(layer, BoxLayer)).boxes == BOXES
    assert origin_of(viewer.layers[0]).path == tmp_path / "macula.ome.tif"
    # What belongs to no layer survives a second time, too.
    viewer.layers.save(str(tmp_path / "2.claps.zip"))
    again = read_session(tmp_path / "2.claps.zip")
    assert (again.settings, again.targets, again.provenance) == (found.settings, found.targets, found.provenance)


@pytest.mark.gui
def test_everything_comes_back_in_a_window(tmp_path, plugin, make_napari_viewer):
    round_trip(make_napari_viewer(), tmp_path)


def test_changed_pixels_are_copied_with_what_the_file_knows(tmp_path):
    lines, localizer = np.full((5, 2, 2), 3.0), RetinalImage(VOLUME[0], spacing=(0.01, 0.01), source="slo")
    image = RetinalImage(VOLUME.copy(), modality=Modality.OCT, spacing=(0.24, 0.004, 0.012), laterality="L",
                         localizer=localizer, scan_lines=lines, layers={"ILM": np.full((5, 40), 4.0)}, source="a/b.vol",
                         spacing_source=SpacingSource.FILE)  # fmt: skip
    tifffile.imwrite(tmp_path / "b.tif", VOLUME)
    layer = Layer.create(*image_layer_data(image, "b", path=tmp_path / "b.tif"))
    layer.data[2, 3, 4] += 1
    (back,) = reopened(tmp_path, layer)
    assert np.array_equal(back.data, layer.data) and isinstance(read_session(tmp_path / "s.claps.zip").layers[0].image,
                                                                RetinalImage)  # fmt: skip
    found = origin_of(back).image
    assert found.laterality == "L" and found.localizer.spacing == (0.01, 0.01) and list(found.layers) == ["ILM"]
    assert np.array_equal(found.scan_lines, lines) and origin_of(back).path is None
    (again,) = reopened(tmp_path, back)  # out of the session, and in again
    assert np.array_equal(origin_of(again).image.scan_lines, lines)


def reopened(folder: Path, *layers: Layer) -> list[Layer]:
    path = str(folder / "s.claps.zip")
    write_layers(path, [layer.as_layer_data_tuple() for layer in layers])
    return [Layer.create(*data) for data in get_reader(path)(path)]


def test_session_of_the_command_line(tmp_path):
    masks = write_result(tmp_path / "eye")
    path = str(tmp_path / "eye.claps.zip")
    export(tmp_path / "eye", path)
    layers = [Layer.create(*data) for data in get_reader(path)(path)]
    assert [layer.name for layer in layers][:2] == ["retina", "drusen"] and layers[-1].features["score"].tolist() == [
        0.75, 1.0]  # fmt: skip
    assert np.array_equal(layers[1].data, masks["drusen"]) and [str(u) for u in layers[1].units] == ["millimeter"] * 3
    assert layers[1].features["instance"].tolist() == [2, 3, 4, 65535] and layers[1].metadata[KEY]["label"] == "drusen"
    assert layers[1].metadata[KEY][SESSION]["provenance"]["bundle"]["name"] == "claps-tiny"
    assert list(layers[-1].text.values) == ["drusen 0.75", "dark µ/spots 1.00"]
    # Saved in napari, it is exported as before.
    reopened(tmp_path, *layers)
    export(tmp_path / "s.claps.zip", tmp_path / "masks.nii.gz")


@pytest.mark.parametrize("change", ["missing", "changed"])
def test_image_that_is_not_there_is_said_and_masks_open(tmp_path, plugin, change):
    viewer = ViewerModel()
    fill(viewer, tmp_path / "macula.ome.tif")
    viewer.layers.save(str(tmp_path / "s.claps.zip"))
    n_layers = len(viewer.layers)
    viewer.layers.clear()
    if change == "missing":
        (tmp_path / "macula.ome.tif").rename(tmp_path / "elsewhere.tif")
    else:
        tifffile.imwrite(tmp_path / "macula.ome.tif", VOLUME[::-1])
    viewer.open(tmp_path / "s.claps.zip", plugin=plugin)
    assert len(viewer.layers) == n_layers - 1 and "macula" not in viewer.layers[0].name
    (said,) = [str(r.message) for r in notification_manager.records]
    assert "macula.ome.tif" in said and "masks and boxes open without it" in said
    only = tmp_path / "only.claps.zip"
    write_session(only, Session(read_session(tmp_path / "s.claps.zip").layers[:1]))
    with pytest.raises(InputError, match=r"macula\.ome\.tif"):
        get_reader(str(only))(str(only))


def test_damaged_sessions_say_so(tmp_path, plugin):
    path = tmp_path / "s.claps.zip"
    write_session(path, Session((MaskLayer("m", "drusen", VOLUME),)))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"PK\3\4", b"no zip at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"s\.claps\.zip: .*(damaged|truncated)"):
            ViewerModel().open(path, plugin=plugin)
    assert get_reader(str(tmp_path / "missing.claps.zip")) is None


@pytest.mark.parametrize("style", [
    {"opacity": 7}, {"blending": "no such"}, {"colormap": {"colors": "x", "name": 1}}, {"visible": {}}, {"colormap": 3},
])  # fmt: skip
def test_looks_that_napari_cannot_show(tmp_path, style):
    path = tmp_path / "s.claps.zip"
    write_session(path, Session((MaskLayer("m", "drusen", VOLUME, style=style),)))
    try:
        layers = get_reader(str(path))(str(path))
    except InputError as error:
        assert "s.claps.zip: the layer 'm' cannot be shown" in str(error)
    else:
        Layer.create(*layers[0])


def test_a_style_cannot_bring_other_arguments(tmp_path):
    path = tmp_path / "s.claps.zip"
    write_session(path, Session((MaskLayer("m", "drusen", VOLUME, style={"cache": False, "opacity": 0.25}),)))
    ((_, options, _),) = get_reader(str(path))(str(path))
    assert options["opacity"] == 0.25 and "cache" not in options


def test_what_has_no_place_in_a_session(tmp_path):
    film = Layer.create(np.zeros((2, 2, 9, 9)), {"name": "film"}, "image")
    glass = Layer.create(np.zeros((9, 9, 4), np.uint8), {"name": "glass", "rgb": True}, "image")
    four = Labels(np.zeros((2, 2, 9, 9), int), name="four")
    for layer, text in ((film, "film"), (glass, "'glass' has transparent pixels"), (four, "'four'")):
        with pytest.raises(OutputError, match=text):
            write_layers(str(tmp_path / "s.claps.zip"), [layer.as_layer_data_tuple()])
    assert not list(tmp_path.iterdir())


def test_metadata_of_others_do_not_stop_the_saving(tmp_path):
    known = {"score_threshold": "?", "bundle": "b", "x": np.float32(1)}
    layer = Shapes([[[0, 0], [3, 0], [3, 3], [0, 3]]], metadata={"other": object(), "n": 3, KEY: known})
    (back,) = reopened(tmp_path, layer)
    assert back.metadata["n"] == 3 and "other" not in back.metadata and back.metadata[KEY]["x"] == 1


def test_turned_and_other_shapes_are_no_boxes_but_come_back(tmp_path):
    turned = Shapes([[[0, 2], [2, 0], [4, 2], [2, 4]]], features=box_features(BOXES[:1]), name="turned")
    drawn = Shapes([[[9, 3], [2, 3], [2, 8], [9, 8]]], features=box_features(BOXES[:1]), name="drawn upwards")
    back = reopened(tmp_path, turned, drawn)
    assert np.allclose(back[0].data[0], turned.data[0])
    assert np.allclose(np.sort(back[1].data[0], axis=0), np.sort(drawn.data[0], axis=0))
    kinds = [type(layer).__name__ for layer in read_session(tmp_path / "s.claps.zip").layers]
    assert kinds == ["ShapeLayer", "BoxLayer"]
