"""The manifest, and what it promises: readers, writers and samples, without a window."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Shapes
from npe2 import PluginManager, PluginManifest

import napari_claps
from napari_claps.cli.gui import _is_ours, _open
from napari_claps.errors import InputError, OutputError
from napari_claps.plugin.layers import KEY, box_corners, box_features, box_style, mask_colormap
from napari_claps.plugin.reader import get_reader
from napari_claps.plugin.saved_layers import read_channels
from napari_claps.plugin.writer import write_boxes, write_masks, write_zarr_masks
from napari_claps.results import coco_detections
from napari_claps.results.coco import read_detections
from napari_claps.results.uncertainty import UncertaintyWriter
from napari_claps.settings import Settings
from napari_claps.types import Box, BoxSource, RetinalImage

MANIFEST = Path(napari_claps.__file__).with_name("napari.yaml")
PLACE = dict(scale=(0.24, 0.004, 0.012), units=("mm", "mm", "mm"), axis_labels=("z", "y", "x"))
BOXES = [
    Box(2, 3, 7, 10, label="drusen", score=0.75, slice_index=0, instance=1),
    Box(4.5, 6, 9, 12.25, label="intraretinal_fluid", score=0.5, slice_index=3, instance=2, source=BoxSource.MASK),
]


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_file(MANIFEST)


def reopened(path) -> list[Layer]:
    path = str(path)
    return [Layer.create(*data) for data in get_reader(path)(path)]


def boxes_layer(**options) -> Shapes:
    return Shapes([box_corners(b, is_volume=True) for b in BOXES], ndim=3, features=box_features(BOXES), name="boxes",
                  **box_style((16, 20)), **{**PLACE, **options})


def test_every_command_can_be_imported(manifest):
    subprocess.run([sys.executable, "-W", "ignore", "-m", "npe2", "validate", "--imports", str(MANIFEST)], check=True,
                   env={**os.environ, "QT_QPA_PLATFORM": "offscreen"})


def test_contributions(manifest):
    contributions = manifest.contributions
    assert {s.key for s in contributions.sample_data} == {"fundus_photograph", "microaneurysm_crop", "synthetic_oct"}
    (item,) = contributions.menus["napari/layers/segment"]
    assert item.command == contributions.widgets[0].command == "napari-claps.segment"
    (reader,) = contributions.readers
    assert not any(p.endswith((".png", ".jpg", "*")) for p in reader.filename_patterns), "napari opens those itself"


def test_opening_a_file_loads_no_torch(tmp_path):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, np.zeros((20, 30), np.uint8))
    code = ("import sys; from napari_claps.plugin.reader import get_reader; import napari_claps.plugin.sample_data, "
            f"napari_claps.plugin.writer; get_reader({str(path)!r})({str(path)!r}); "
            "sys.exit('torch' in sys.modules or 'qtpy' in sys.modules)")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("content", [b"", b"no image", b"{}", b'{"images": 3}', b"II*\0", b"\xff" * 50])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.json", "a.vol", "a.e2e", "a.dcm", "a.fda"])
def test_reader_leaves_alone_what_is_not_ours(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    reader = get_reader(str(path))  # never raises
    assert reader is None or (content == b"II*\0" and reader is not None)
    assert get_reader(str(tmp_path / "missing.tif")) is None
    assert get_reader([str(path)]) is None


def test_image_with_its_spacing(tmp_path):
    path = tmp_path / "macula.ome.tif"
    data = np.random.default_rng(0).integers(0, 255, (4, 20, 30), dtype=np.uint8)
    tifffile.imwrite(path, data, ome=True, metadata={
        "axes": "ZYX", "PhysicalSizeX": 12, "PhysicalSizeY": 4, "PhysicalSizeZ": 240, "PhysicalSizeXUnit": "µm",
        "PhysicalSizeYUnit": "µm", "PhysicalSizeZUnit": "µm"})  # fmt: skip
    (layer,) = reopened(path)
    assert layer.name == "macula" and np.array_equal(layer.data, data)
    assert np.allclose(layer.scale, (0.24, 0.004, 0.012)) and [str(u) for u in layer.units] == ["millimeter"] * 3
    assert layer.metadata[KEY]["spacing_source"] == "file"


def test_masks_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    layers = [
        Labels(rng.integers(0, 4, (5, 16, 20)).astype(np.uint16), name=name, metadata={KEY: {"label": label}},
               colormap=mask_colormap(label), **PLACE)
        for name, label in (("drusen", "drusen"), ("fluid (run 2)", "intraretinal_fluid"))
    ]
    path = tmp_path / "masks.ome.tif"
    assert write_masks(str(path), [layer.as_layer_data_tuple() for layer in layers]) == [str(path)]
    assert [p.name for p in tmp_path.iterdir()] == ["masks.ome.tif"]
    back = reopened(path)
    assert [layer.metadata[KEY]["label"] for layer in back] == ["drusen", "intraretinal_fluid"]
    for old, new in zip(layers, back, strict=True):
        assert isinstance(new, Labels) and np.array_equal(old.data, new.data) and np.allclose(old.scale, new.scale)
        assert old.units == new.units and new.features["pixels"].sum() == (old.data > 0).sum()
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == "CZYX" and tif.series[0].dtype == np.uint16


@pytest.mark.parametrize("ending", [".nii.gz", ".ome.zarr"])
def test_masks_in_other_formats_keep_numbers_and_size(tmp_path, ending):
    """The format is chosen by the name in the save dialog."""
    from napari.plugins.io import save_layers
    from npe2 import PluginManager

    PluginManager.instance().discover()
    data = np.random.default_rng(3).integers(0, 4, (5, 16, 20)).astype(np.uint16)
    layer = Labels(data, name="drusen", metadata={KEY: {"label": "drusen"}}, **PLACE)
    path = tmp_path / f"m{ending}"
    assert [Path(p) for p in save_layers(str(path), [layer])] == [path]
    if ending == ".nii.gz":
        import nibabel

        saved = nibabel.load(path)
        assert np.array_equal(np.asarray(saved.dataobj).T, data)
        assert np.allclose(saved.header.get_zooms()[::-1], PLACE["scale"]), "mm, as in the layer"
    else:
        import zarr

        assert np.array_equal(zarr.open(path, mode="r")["labels/drusen/0"][:], data)
        assert save_layers(str(path), [layer]), "an earlier one is replaced"
        (tmp_path / "mine.ome.zarr").mkdir()
        with pytest.raises(OutputError, match="mine.ome.zarr: is a folder, but no OME-Zarr"):
            write_zarr_masks(str(tmp_path / "mine.ome.zarr"), [layer.as_layer_data_tuple()])


def test_masks_of_a_plane_without_spacing(tmp_path):
    layer = Labels(np.eye(16, 20, dtype=np.uint8), name="my vessels")
    path = tmp_path / "m.ome.tif"
    write_masks(str(path), [layer.as_layer_data_tuple()])
    (back,) = reopened(path)
    assert np.array_equal(back.data, layer.data) and back.name == "my vessels" and (back.scale == 1).all()
    assert str(back.units[0]) == "pixel"


@pytest.mark.parametrize(("data", "text"), [
    ([np.zeros((9, 9), int), np.zeros((9, 12), int)], "different size"),
    ([np.full((9, 9), 70000)], "70000"),
    ([np.zeros((2, 2, 9, 9), int)], "4 axes"),
])  # fmt: skip
def test_masks_that_cannot_be_written(tmp_path, data, text):
    layers = [Labels(d, name=f"m{i}").as_layer_data_tuple() for i, d in enumerate(data)]
    with pytest.raises(OutputError, match=text):
        write_masks(str(tmp_path / "m.ome.tif"), layers)
    assert not list(tmp_path.iterdir())


def test_boxes_come_back_as_they_were(tmp_path):
    layer = boxes_layer(translate=(1, 2, 3), rotate=10,
                        metadata={KEY: {"shape": [5, 16, 20], "labels": ["drusen", "intraretinal_fluid", "shrm"]}})
    path = tmp_path / "boxes.json"
    assert write_boxes(str(path), *layer.as_layer_data_tuple()[:2]) == [str(path)]
    (back,) = reopened(path)
    assert isinstance(back, Shapes) and back.ndim == 3
    assert back.features.to_dict("records") == layer.features.to_dict("records")
    assert list(back.text.values) == ["drusen 0.75", "intraretinal_fluid 0.50"]
    for old, new in zip(layer.data, back.data, strict=True):
        assert np.allclose(old, new, atol=0.01)
        assert np.allclose(layer.data_to_world(old[2]), back.data_to_world(new[2]), atol=0.01)
    assert back.units == layer.units and back.axis_labels == layer.axis_labels
    document = json.loads(path.read_text())
    assert document["annotations"][0]["bbox"] == [3, 2, 7, 5]
    assert [c["name"] for c in document["categories"]] == ["drusen", "intraretinal_fluid", "shrm"], "absent ones too"
    assert len(document["images"]) == 5 and document["images"][0]["width"] == 20


def test_shapes_of_the_user_are_saved_as_boxes(tmp_path):
    layer = Shapes([np.array([[10, 10], [20, 12], [15, 30]])], shape_type="polygon", name="my lesion")
    path = tmp_path / "b.json"
    write_boxes(str(path), *layer.as_layer_data_tuple()[:2])
    (back,) = reopened(path)
    assert back.ndim == 2 and back.data[0].min(axis=0).tolist() == [10, 10] and back.data[0].max(axis=0).tolist() == [
        20, 30]  # fmt: skip
    assert back.features.iloc[0].to_dict() == {"label": "my lesion", "score": 1, "slice": 0, "source": "user",
                                               "instance": 0}


def test_no_boxes(tmp_path):
    layer = Shapes(None, ndim=3, features=box_features([]), name="boxes", metadata={KEY: {"shape": [5, 16, 20]}},
                   **box_style((16, 20)), **PLACE)
    path = tmp_path / "boxes.json"
    write_boxes(str(path), *layer.as_layer_data_tuple()[:2])
    (back,) = reopened(path)
    assert back.nshapes == 0 and back.ndim == 3 and np.allclose(back.scale, layer.scale)


def test_writers_and_reader_through_napari(tmp_path, manifest, npe2pm):
    npe2pm.register(manifest)
    viewer = ViewerModel()
    viewer.add_labels(np.eye(16, 20, dtype=np.uint16), name="drusen", metadata={KEY: {"label": "drusen"}})
    viewer.add_layer(Shapes([box_corners(BOXES[0], is_volume=False)], features=box_features(BOXES[:1]), name="boxes"))
    masks, boxes = tmp_path / "m.ome.tif", tmp_path / "b.json"
    assert viewer.layers[:1].save(str(masks)) == [str(masks)], "the longest suffix wins"
    assert viewer.layers[1:].save(str(boxes), plugin="napari-claps") == [str(boxes)]
    viewer.layers.clear()
    viewer.open(masks, plugin="napari-claps")
    viewer.open(boxes, plugin="napari-claps")
    assert [layer._type_string for layer in viewer.layers] == ["labels", "shapes"]
    assert viewer.layers[1].features["score"].tolist() == [0.75]


@pytest.mark.parametrize("key", ["fundus_photograph", "microaneurysm_crop", "synthetic_oct"])
def test_samples_open(manifest, npe2pm, key):
    npe2pm.register(manifest)
    viewer = ViewerModel()
    (layer,) = viewer.open_sample("napari-claps", key)
    if key == "synthetic_oct":
        assert layer.ndim == 3 and layer.data.shape[0] >= 24 and layer.axis_labels == ("z", "y", "x")
        assert [str(u) for u in layer.units] == ["millimeter"] * 3 and layer.scale[0] > layer.scale[2] > layer.scale[1]
        assert layer.metadata[KEY]["modality"] == "oct"
    else:
        assert layer.rgb is (key == "fundus_photograph") and str(layer.units[0]) == "pixel"



@pytest.mark.parametrize("name, ours", [("my photo.png", False), ("scan.tif", True), ("table.json", False)])
def test_the_gui_command_opens_every_picture(tmp_path, name, ours):
    from PIL import Image

    if name == "table.json":
        (tmp_path / name).write_text("{}")
    else:
        Image.fromarray((np.arange(600) // 3).astype(np.uint8).reshape(20, 30)).save(tmp_path / name)
    PluginManager.instance().discover()
    assert _is_ours(tmp_path / name) is ours
    if name != "table.json":
        viewer = ViewerModel()
        viewer.open(str(tmp_path / name), plugin="napari-claps" if ours else "napari")
        assert viewer.layers[0].data.shape[:2] == (20, 30)


def test_the_gui_command_opens_a_folder_as_one_volume(tmp_path):
    from PIL import Image

    for number in (2, 10, 1):
        Image.new("L", (30, 20), number).save(tmp_path / f"B{number}.png")
    viewer = ViewerModel()
    _open(viewer, tmp_path)
    (layer,) = viewer.layers
    assert layer.data.shape == (3, 20, 30) and layer.data[:, 0, 0].tolist() == [1, 2, 10]


@pytest.mark.parametrize("content", ["[" * 100_000, '{"images": ' + "[" * 100_000, '{"images": 3}', '{"images": [1]}'])
def test_no_json_makes_the_reader_raise(tmp_path, content):
    (tmp_path / "some.json").write_text(content)
    assert get_reader(str(tmp_path / "some.json")) is None


def test_uncertainty_of_boxes_comes_back(tmp_path):
    boxes = [BOXES[0], dataclasses.replace(BOXES[1], uncertainty=0.25)]
    document = coco_detections(RetinalImage(np.zeros((4, 16, 20), np.uint8)), ["drusen", "intraretinal_fluid"], boxes,
                               range(4))
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    (layer,) = reopened(tmp_path / "boxes.json")
    data, attributes, _ = layer.as_layer_data_tuple()
    write_boxes(str(tmp_path / "again.json"), data, attributes)
    assert [box.uncertainty for box in read_detections(tmp_path / "again.json").boxes] == [None, 0.25]


def test_boxes_of_a_volume_of_unknown_size_have_three_axes(tmp_path):
    document = coco_detections(RetinalImage(np.zeros((4, 16, 20), np.uint8)), ["drusen"], BOXES[:1], [0])
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    (tmp_path / "provenance.json").write_text(json.dumps({"spacing": {"mm": None, "axes": "zyx"}}))
    (layer,) = reopened(tmp_path / "boxes.json")
    assert layer.ndim == 3 and tuple(layer.axis_labels) == ("z", "y", "x")


def test_no_layer_is_lost_when_names_and_labels_cross(tmp_path):
    first, second = np.full((16, 20), 1, np.uint16), np.full((16, 20), 2, np.uint16)
    known = {"metadata": {KEY: {"content": "masks", "label": "drusen"}}}
    layers = [Labels(first, name="reader 1", **known), Labels(second, name="drusen", **known)]
    write_masks(str(tmp_path / "m.ome.tif"), [layer.as_layer_data_tuple() for layer in layers])
    again = reopened(tmp_path / "m.ome.tif")
    assert sorted(int(layer.data.max()) for layer in again) == [1, 2]


def test_layers_of_different_scale_do_not_share_a_file(tmp_path):
    masks, place = np.ones((4, 16, 20), np.uint16), dict(PLACE)
    layers = [Labels(masks, name="a", **place), Labels(masks, name="b", **place | {"scale": (0.24, 0.008, 0.012)})]
    with pytest.raises(OutputError, match=r"different size in mm.*a \(0\.24, 0\.004.*b \(0\.24, 0\.008"):
        write_masks(str(tmp_path / "m.ome.tif"), [layer.as_layer_data_tuple() for layer in layers])
    drawn = [Labels(masks, name="drawn"), layers[0]]
    write_masks(str(tmp_path / "m.ome.tif"), [layer.as_layer_data_tuple() for layer in drawn])
    assert all(layer.scale == pytest.approx(PLACE["scale"]) for layer in reopened(tmp_path / "m.ome.tif"))


def test_uncertainty_of_a_result_opens_as_the_run_shows_it(tmp_path):
    image = RetinalImage(np.zeros((2, 16, 20), np.uint8), spacing=(0.24, 0.004, 0.012))
    writer = UncertaintyWriter(image, ["drusen", "optic_disc"], Settings(uncertainty=True))
    values = np.full((16, 20), 0.25, np.float32)
    writer.add(SimpleNamespace(index=1, uncertainty={"drusen": values, "optic_disc": values * 2}, inner={}, outer={}))
    writer.write(tmp_path)
    layers = reopened(tmp_path / "uncertainty.ome.tif")
    assert [layer.name for layer in layers] == ["uncertainty drusen", "uncertainty optic disc"]
    assert all(isinstance(layer, Image) and layer.contrast_limits == [0, 1] for layer in layers)
    assert layers[0].scale == pytest.approx((0.24, 0.004, 0.012)) and np.isnan(layers[0].data[0]).all()
    assert layers[1].data[1] == pytest.approx(0.5)


def test_masks_that_claim_too_much_are_refused(tmp_path):
    path = tmp_path / "m.ome.tif"
    tifffile.imwrite(path, np.zeros((1, 2, 64, 64), np.uint16), photometric="minisblack", compression="zlib",
                     metadata={"axes": "CZYX", "Channel": {"Name": ["drusen"]}})  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            page.tags["ImageWidth"].overwrite(2**20)
            page.tags["ImageLength"].overwrite(2**20)
            page.tags["RowsPerStrip"].overwrite(2**20)
    with pytest.raises(InputError, match="m.ome.tif"):
        read_channels(path)
