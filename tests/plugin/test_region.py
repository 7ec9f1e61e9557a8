"""The region of interest: a rectangle of a Shapes layer becomes pixels of the image."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.layers import Image, Shapes

from napari_claps.errors import InputError
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.widgets.region import region_of
from tests.gui_checks import FUNDUS, PLACE, VOLUME, errors, finish, idle, labels_of

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]


def rectangle(y0, x0, y1, x1, **options):
    """A rectangle around these pixels, end exclusive."""
    return Shapes([np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]]) - 0.5], shape_type="rectangle", name="roi",
                  **options)


def test_pixels_of_a_plane():
    image = Image(FUNDUS, rgb=True)
    assert region_of(rectangle(8, 10, 30, 50), image) == (8, 10, 30, 50)
    assert region_of(rectangle(8.3, 9.8, 30.4, 50.2), image) == (8, 10, 30, 50)
    assert region_of(rectangle(-20, -30, 30, 500), image) == (0, 0, 30, 80), "cut off at the border"


def test_a_plane_rectangle_over_a_volume_that_lies_elsewhere():
    image = Image(VOLUME, **PLACE)
    shapes = rectangle(5, 10, 25, 40, scale=(0.004, 0.012), translate=(2.0, 3.0), units=("mm", "mm"))
    assert region_of(shapes, image) == (5, 10, 25, 40)


def test_a_rectangle_in_one_slice_and_with_more_axes():
    image = Image(VOLUME, **PLACE)
    corners = np.insert(rectangle(5, 10, 25, 40).data[0], 0, 7, axis=1)
    assert region_of(Shapes([corners], **PLACE), image) == (5, 10, 25, 40)
    film = Shapes([np.insert(corners, 0, 1, axis=1)], scale=(1, *PLACE["scale"]), translate=(0, *PLACE["translate"]))
    assert region_of(film, image) == (5, 10, 25, 40)


def test_pixels_of_another_size_and_a_turned_image():
    assert region_of(rectangle(4, 6, 10, 20, scale=(2, 2), translate=(0.5, 0.5)), Image(FUNDUS, rgb=True)) == (
        8, 12, 20, 40)  # fmt: skip
    image = Image(VOLUME[0], rotate=90)
    corners = [image.data_to_world(c) for c in rectangle(8, 10, 30, 50).data[0]]
    assert region_of(Shapes([corners]), image) == (8, 10, 30, 50), "turned with the image it is upright in it"


@pytest.mark.parametrize(("shapes", "text"), [
    (Shapes(ndim=2, name="roi"), "no shape. Draw a rectangle"),
    (Shapes([np.array([[1, 1], [9, 9]])], shape_type="ellipse", name="roi"), "of the type ellipse"),
    (rectangle(8, 10, 30, 50, rotate=30), "is rotated against 'eye'"),
    (rectangle(100, 10, 130, 50), "lies outside 'eye', which has 64 x 80 pixels"),
    (Shapes([np.eye(4, 2)] * 2, name="roi"), "has 2 shapes, of which none are selected"),
])  # fmt: skip
def test_what_is_no_region(shapes, text):
    shapes.selected_data = set()
    with pytest.raises(InputError, match=text) as caught:
        region_of(shapes, Image(FUNDUS, rgb=True, name="eye"))
    assert "'roi'" in str(caught.value)


def test_the_selected_one_of_several():
    shapes = rectangle(8, 10, 30, 50)
    shapes.add(np.eye(3, 2) * 9, shape_type="polygon")
    shapes.selected_data = {0}
    assert region_of(shapes, Image(FUNDUS, rgb=True)) == (8, 10, 30, 50)
    shapes.selected_data = {0, 1}
    with pytest.raises(InputError, match="2 are selected"):
        region_of(shapes, Image(FUNDUS, rgb=True))


def test_a_run_in_a_region(make_widget, qtbot, pipeline):
    viewer, widget = make_widget(**PLACE)
    assert widget.form.region_combo.current_choice == "whole image"
    widget.run()
    finish(qtbot, widget)
    assert pipeline.region is None
    shapes = viewer.add_layer(rectangle(5, 10, 25, 40, scale=PLACE["scale"][1:], translate=PLACE["translate"][1:],
                                        units=("mm", "mm")))  # fmt: skip
    assert widget.form.region_combo.current_choice == "whole image", "a new layer does not become the region"
    widget.form.region_combo.set_layer(shapes)
    widget.run()
    finish(qtbot, widget)
    assert pipeline.region == (5, 10, 25, 40) and not errors()
    assert list(labels_of(viewer)["drusen"].metadata[KEY]["provenance"]["region"]) == [5, 10, 25, 40]
    shapes.selected_data = {0}
    shapes.remove_selected()
    done = len(pipeline.slices_done)
    widget.run()
    assert idle(widget) and "no shape" in errors()[-1] and len(pipeline.slices_done) == done
    viewer.layers.remove(shapes)
    assert widget.form.region_combo.current_choice == "whole image"
