"""What goes between layers and our types; no window is needed."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Image, Labels, Shapes

from napari_claps.errors import InputError
from napari_claps.plugin.layers import (
    KEY,
    LayerSource,
    box_colours,
    box_corners,
    box_features,
    box_style,
    image_layer_data,
    mask_colormap,
    plain,
    spacing_of,
    spatial_metadata,
    target_colour,
)
from napari_claps.types import Box, Modality, RetinalImage, SpacingSource
from napari_claps.words.vocabulary import TARGETS

VOLUME = np.arange(5 * 16 * 20, dtype=np.uint16).reshape(5, 16, 20)


def test_spatial_metadata_places_any_kind_of_layer_alike():
    image = Image(VOLUME, scale=(3, 2, 0.5), translate=(7, 8, 9), rotate=20, shear=(0.1, 0, 0.2),
                  affine=np.diag([1, 2, 2, 1]), units=("mm", "um", "um"), axis_labels=("z", "y", "x"))
    place = spatial_metadata(image)
    for other in (Labels(np.zeros(VOLUME.shape, int), **place), Shapes(None, ndim=3, **place)):
        assert other.units == image.units and other.axis_labels == image.axis_labels
        for point in ([0, 0, 0], [4, 15, 19]):
            assert np.allclose(other.data_to_world(point), image.data_to_world(point))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(scale=(240, 4, 12), units=("um", "um", "um")), (0.24, 0.004, 0.012)),
        (dict(scale=(1e5, 4, 12), units=("nm", "um", "um")), (0.1, 0.004, 0.012)),
        (dict(scale=(0.24, 0.004, 0.012), units=("mm", "mm", "mm")), (0.24, 0.004, 0.012)),
        (dict(scale=(0.24, -0.004, 0.012), units=("mm", "mm", "mm")), (0.24, 0.004, 0.012)),
        (dict(scale=(1, 1, 1), units=("mm", "mm", "mm"), affine=np.diag([1, 2, 3, 1])), (1, 2, 3)),
        (dict(scale=(0.24, 0.004, 0.012)), None),
        (dict(scale=(1, 4, 12), units=("s", "um", "um")), None),
    ],
)
def test_spacing(options, expected):
    found = spacing_of(Image(VOLUME, **options))
    assert found is None if expected is None else found == pytest.approx(expected)


def test_an_image_survives_the_way_into_a_layer_and_back():
    image = RetinalImage(VOLUME, modality=Modality.OCT, spacing=(0.24, 0.004, 0.012), laterality="L",
                         spacing_source=SpacingSource.VENDOR_DEFAULT, source="eye")
    data, options, kind = image_layer_data(image, "eye")
    assert kind == "image"
    layer = Image(data, **options)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3 and layer.axis_labels == ("z", "y", "x")
    back = LayerSource.of(layer).image()
    assert back.spacing == pytest.approx(image.spacing) and back.spacing_source is SpacingSource.VENDOR_DEFAULT
    assert back.modality is Modality.OCT and back.laterality == "L" and np.array_equal(back.data, VOLUME)
    layer.scale = (0.3, 0.004, 0.012)
    assert LayerSource.of(layer).image().spacing_source is SpacingSource.USER, "the user corrected it"


def test_no_spacing_stays_no_spacing():
    data, options, _ = image_layer_data(RetinalImage(VOLUME), "eye")
    layer = Image(data, **options)
    assert LayerSource.of(layer).image().spacing is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colour(dtype):
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    pixels = (np.random.default_rng(0).random((16, 20, 3)) * top).astype(dtype)
    source = LayerSource.of(Image(pixels, rgb=True))
    image = source.image()
    assert source.shape == (16, 20) and image.rgb and image.data.dtype == np.uint8
    opaque = np.concatenate([pixels, np.full((16, 20, 1), top, dtype)], axis=-1)
    assert np.array_equal(LayerSource.of(Image(opaque, rgb=True)).image().data, image.data)
    opaque[3, 3, 3] = 0
    with pytest.raises(InputError, match="alpha"):
        LayerSource.of(Image(opaque, rgb=True)).image()


def test_refused_layers():
    with pytest.raises(InputError, match=r"'film' has 4 axes"):
        LayerSource.of(Image(np.zeros((2, 2, 9, 9)), name="film"))
    with pytest.raises(InputError, match=r"'x'.*NaN"):
        LayerSource.of(Image(np.full((9, 9), np.nan), name="x")).image()
    with pytest.raises(InputError, match="at least 8 x 8"):
        LayerSource.of(Image(np.zeros((1, 1)), name="dot")).image()


def test_lazy_and_multiscale_layers():
    dask = pytest.importorskip("dask.array")
    lazy = LayerSource.of(Image(dask.from_array(VOLUME)))
    assert np.array_equal(lazy.image().data, VOLUME)
    pyramid = Image([VOLUME, VOLUME[:, ::2, ::2]], multiscale=True)
    assert np.array_equal(LayerSource.of(pyramid).image().data, VOLUME)


def test_every_target_has_visible_colours():
    for label in (*TARGETS, "bright dots near the fovea"):
        colormap = mask_colormap(label)
        assert colormap.map(np.array([0], np.uint16))[0, 3] == 0
        assert np.allclose(colormap.map(np.array([1], np.uint16))[0, :3], target_colour(label))
        shades = colormap.map(np.arange(1, 300, dtype=np.uint16))
        assert (shades[:, 3] == 1).all() and (shades[:, :3].max(axis=1) > 0.3).all()
    neighbours = mask_colormap("drusen").map(np.array([1, 2], np.uint16))
    assert not np.allclose(*neighbours)
    assert np.allclose(*mask_colormap("vessel").map(np.array([1, 2], np.uint16))), "a tree has one colour"


def test_boxes_enclose_the_pixels_of_their_object():
    box = Box(2, 3, 7, 10, label="drusen", score=0.5, slice_index=4, instance=1)
    assert box_corners(box, is_volume=False).tolist() == [[1.5, 2.5], [1.5, 9.5], [6.5, 9.5], [6.5, 2.5]]
    assert box_corners(box, is_volume=True)[:, 0].tolist() == [4] * 4
    layer = Shapes([box_corners(box, is_volume=True)], ndim=3, features=box_features([box]),
                   edge_color=box_colours([box]), **box_style((16, 20)))
    assert list(layer.text.values) == ["drusen 0.50"]
    assert np.allclose(layer.edge_color[0, :3], target_colour("drusen"))


def test_empty_boxes_layer_takes_shapes_later():
    viewer = ViewerModel()
    layer = viewer.add_shapes(None, ndim=3, features=box_features([]), **box_style((16, 20)))
    assert layer.nshapes == 0 and list(layer.features) == ["label", "score", "slice", "source", "instance"]


def test_plain_json():
    values = {"a": np.float32(0.5), "b": np.arange(3), "c": Modality.OCT, "d": (1, 2), "e": None}
    assert json.loads(json.dumps(plain(values))) == {"a": 0.5, "b": [0, 1, 2], "c": "oct", "d": [1, 2], "e": None}


def test_sample_metadata_are_plain():
    _, options, _ = image_layer_data(RetinalImage(VOLUME, metadata={"device": "X", "n": np.int64(3)}), "eye")
    assert json.loads(json.dumps(options["metadata"][KEY]))["n"] == 3
