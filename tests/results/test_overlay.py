"""The picture of a result."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_claps.measurement import measure
from napari_claps.results.overlay import Overlay, draw_slice, label_colours
from napari_claps.results.overlay.drawing import display
from napari_claps.results.overlay.legend import PANEL, legend, summary
from napari_claps.results.overlay.sheet import LONG_SIDE, MAX_TILES, spread
from napari_claps.results.overlay.style import drawable
from napari_claps.types import Box, Modality, ModalityGuess, Prompt, RetinalImage, SliceResult
from napari_claps.words.vocabulary import TARGETS, make_prompt

DRUSEN = TARGETS["drusen"].colour
GUESS = ModalityGuess(Modality.OCT, 0.97, "detected")
PROMPTS = tuple(make_prompt(t, Modality.OCT) for t in ("drusen", "retina"))


def slice_result(index=0, shape=(100, 140), boxes=(), found=True):
    drusen = np.zeros(shape, np.uint16)
    if found:
        drusen[40:60, 50:90] = 1
    masks = {"drusen": drusen, "retina": np.zeros(shape, np.uint16)}
    return SliceResult(index, GUESS, PROMPTS, masks, tuple(boxes), {}, {})


def has_colour(picture, colour, tolerance=14):
    pixels = np.asarray(picture).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - colour).max(axis=1) <= tolerance).any())


def picture_of(image, results, slices=None):
    overlay = Overlay(image, PROMPTS, GUESS, slices or range(image.n_slices), caption="m 1", notice="research only")
    for result in results:
        overlay.add(result)
    return overlay.picture(measure(results, image))


def test_mask_is_drawn_where_it_is():
    plane = np.full((100, 140), 128, np.uint8)
    drawn = np.asarray(draw_slice(plane, slice_result(), label_colours(PROMPTS), (140, 100))).astype(int)
    touched = np.abs(drawn - 128).max(axis=2) > 10
    rows, columns = np.nonzero(touched)
    assert (rows.min(), rows.max() + 1) == (40, 60)
    assert (columns.min(), columns.max() + 1) == (50, 90)
    assert np.abs(drawn[40, 70] - DRUSEN).max() < 14, "the contour has the colour of the vocabulary"


def test_box_is_drawn_at_its_corners_also_when_scaled():
    plane = np.zeros((100, 140), np.uint8)
    result = slice_result(boxes=[Box(20, 30, 50, 100, "drusen", 0.8)], found=False)
    drawn = np.asarray(draw_slice(plane, result, label_colours(PROMPTS), (280, 200)))
    for y, x in ((40, 60), (99, 60), (40, 199), (99, 199)):
        assert tuple(drawn[y, x]) == DRUSEN
    assert tuple(drawn[70, 130]) == (0, 0, 0)


def test_box_of_a_band_does_not_frame_the_picture():
    result = slice_result(boxes=[Box(0, 0, 100, 140, "retina", 0.9)], found=False)
    drawn = draw_slice(np.zeros((100, 140), np.uint8), result, label_colours(PROMPTS), (140, 100))
    assert not np.asarray(drawn).any()


def test_plane_picture_has_legend_and_size():
    image = RetinalImage(np.zeros((100, 140), np.uint8), source="/secret/path/eye.png")
    picture = picture_of(image, [slice_result()])
    assert picture.mode == "RGB"
    assert picture.width == LONG_SIDE[0] + PANEL
    assert has_colour(picture.crop((picture.width - PANEL, 0, *picture.size)), DRUSEN, tolerance=0)


def test_big_plane_is_reduced():
    image = RetinalImage(np.zeros((2400, 3200), np.uint8))
    empty = SliceResult(0, GUESS, PROMPTS, {p.label: np.zeros((2400, 3200), np.uint16) for p in PROMPTS}, (), {}, {})
    assert picture_of(image, [empty]).width == LONG_SIDE[1] + PANEL


def test_contact_sheet_shows_evenly_spread_slices():
    image = RetinalImage(np.zeros((40, 100, 140), np.uint8))
    picture = picture_of(image, [slice_result(i) for i in range(40)])
    assert picture.width <= 1440 + 2 * 60 + PANEL
    assert has_colour(picture, DRUSEN)
    assert spread(range(40), MAX_TILES)[0] > 0
    assert len(spread(range(40), MAX_TILES)) == MAX_TILES
    assert spread([3, 5], MAX_TILES) == (3, 5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 2000), (2, 2000, 8), (1, 64, 64)])
def test_any_shape_gives_a_reasonable_picture(shape):
    image = RetinalImage(np.zeros(shape, np.uint8))
    picture = picture_of(image, [slice_result(i, shape[1:], found=False) for i in range(shape[0])])
    assert max(picture.size) < 3000


def test_many_boxes_and_boxes_out_of_the_image_do_no_harm():
    boxes = [Box(-10, -10, 500, 500, "drusen", 0.5), Box(99.9, 139.9, 100, 140, "drusen", 0.4),
             *(Box(i, i, i + 3, i + 3, "drusen", 0.3) for i in range(30))]
    image = RetinalImage(np.zeros((100, 140), np.uint8))
    assert has_colour(picture_of(image, [slice_result(boxes=boxes)]), DRUSEN)


def test_free_text_gets_a_colour_of_its_own():
    prompts = (*PROMPTS, Prompt("dark cysts", "dark cysts in an OCT B-scan"), Prompt("bright dots", "bright dots"))
    colours = label_colours(prompts)
    assert colours["drusen"] == DRUSEN
    assert len(set(colours.values())) == 4


def test_texts_have_only_letters_that_the_font_can_draw():
    assert drawable("Müller – 3 mm², ångström “x”") == "Muller - 3 mm2, angstrom “x”"
    assert drawable("眼 3 µm") == "? 3 um" and drawable("e\u0301") == "e"
    shown = legend(RetinalImage(np.zeros((100, 140), np.uint8), source="Ärzte.png"), PROMPTS, GUESS,
                   measure([slice_result()], RetinalImage(np.zeros((100, 140), np.uint8))), label_colours(PROMPTS))
    plain = legend(RetinalImage(np.zeros((100, 140), np.uint8), source="Arzte.png"), PROMPTS, GUESS,
                   measure([slice_result()], RetinalImage(np.zeros((100, 140), np.uint8))), label_colours(PROMPTS))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(plain))


def test_pixel_size_is_said_when_only_the_distance_of_slices_is_missing():
    blank = np.zeros((4, 100, 140), np.uint8)
    known, unknown = (RetinalImage(blank, **known) for known in ({"plane_spacing": (0.004, 0.011)}, {}))
    pictures = [np.asarray(picture_of(image, [slice_result(0)], slices=[0])) for image in (known, unknown)]
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, bool])
def test_other_dtypes_are_stretched(dtype):
    plane = np.arange(400).reshape(20, 20).astype(dtype)
    shown = display(plane)
    assert shown.dtype == np.uint8
    assert shown.max() == 255
    assert Image.fromarray(shown).mode == "L"


def test_nan_and_constant_planes_are_shown_dark():
    plane = np.full((20, 20), np.nan, np.float32)
    assert not display(plane).any()
    plane[3, 3] = 7
    assert not display(plane).any()


def test_one_bright_pixel_is_not_lost():
    plane = np.zeros((50, 50), np.uint16)
    plane[3, 3] = 7
    assert display(plane)[3, 3] == 255


def test_summary_says_the_most_telling_numbers():
    image = RetinalImage(np.zeros((2, 100, 140), np.uint8), spacing=(0.1, 0.01, 0.01))
    table = measure([slice_result(i) for i in range(2)], image)
    assert summary(table[table["slice"].isna() & (table["structure"] == "drusen")]) == "in 2 slices, 16 nL"
    image = RetinalImage(np.zeros((100, 140), np.uint8))
    table = measure([slice_result()], image)
    assert summary(table[table["structure"] == "drusen"]) == "1 object, 800 px"
