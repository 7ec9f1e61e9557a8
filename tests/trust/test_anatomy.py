"""Violations of anatomy: each kind is found where it is, and healthy anatomy and expert masks give none."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from skimage.draw import disk, line

from napari_claps.results.tables import write_violations
from napari_claps.trust.anatomy import Violation, can_check, find_violations
from napari_claps.types import Modality, ModalityGuess, Prompt, RetinalImage, SliceResult, SpacingSource

SHAPE = (200, 240)


def disc(centre, radius, number=1, mask=None):
    mask = np.zeros(SHAPE, np.uint16) if mask is None else mask
    mask[disk(centre, radius, shape=SHAPE)] = number
    return mask


def stroke(start, stop, width=3):
    mask = np.zeros(SHAPE, np.uint16)
    rows, columns = line(*start, *stop)
    for shift in range(-width // 2, width // 2 + 1):
        mask[np.clip(rows + shift, 0, SHAPE[0] - 1), columns] = 1
    return mask


def check(masks, *, spacing=None, layers=None, modality=Modality.CFP, volume=False, index=0):
    shape = (index + 1, *SHAPE) if volume else SHAPE
    image = RetinalImage(np.zeros(shape, np.uint8), spacing=spacing, layers=layers or {},
                         spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE)
    prompts = tuple(Prompt(label, label, label) for label in masks)
    result = SliceResult(index, ModalityGuess(modality, None, "user"), prompts, masks, (), {}, {})
    return find_violations(result, image)


EMPTY = np.zeros(SHAPE, np.uint16)


def test_healthy_disc_and_cup():
    assert check({"optic_disc": disc((90, 100), 40), "optic_cup": disc((92, 101), 20)}) == ()
    assert check({"optic_disc": EMPTY, "optic_cup": EMPTY}) == ()


def test_cup_may_touch_the_rim_but_not_leave_the_disc():
    rim = disc((90, 100), 40)
    assert check({"optic_disc": rim, "optic_cup": disc((90, 121), 20)}) == ()
    [found] = check({"optic_disc": rim, "optic_cup": disc((90, 140), 20)})
    assert found.label == "optic_cup"
    assert "outside the disc" in found.reason
    assert found.box[3] == 160 and found.box[1] > 130


def test_cup_without_a_disc():
    [found] = check({"optic_disc": EMPTY, "optic_cup": disc((90, 100), 20)})
    assert (found.label, found.reason) == ("optic_cup", "there is a cup but no disc")
    assert check({"optic_cup": disc((90, 100), 20)}) == (), "nobody looked for the disc"


def test_two_discs_but_not_a_crumb():
    two = disc((150, 200), 20, 2, disc((60, 60), 40))
    [found] = check({"optic_disc": two})
    assert (found.label, found.box) == ("optic_disc", (131, 181, 170, 220))
    assert check({"optic_disc": disc((150, 200), 5, 2, disc((60, 60), 40))}) == ()


@pytest.mark.parametrize(("spacing", "depth", "n"), [
    (None, 60, 1), (None, 100, 0), ((0.004, 0.01), 60, 1), ((0.004, 0.01), 100, 0),
    ((0.001, 0.01), 70, 0),  # 30 um are 30 pixels there
])  # fmt: skip
@pytest.mark.parametrize("surface", ["retina mask", "layer line"])
def test_fluid_above_the_inner_limiting_membrane(spacing, depth, n, surface):
    masks = {"subretinal_fluid": disc((depth, 120), 12), "retina": EMPTY}
    layers = {}
    if surface == "layer line":
        layers = {"ILM": np.full((1, SHAPE[1]), 80.0)}
    else:
        masks["retina"] = EMPTY.copy()
        masks["retina"][80:150] = 1
        masks["retina"][80:110, 118:123] = 0  # a notch
    found = check(masks, spacing=spacing, layers=layers, modality=Modality.OCT)
    assert len(found) == n
    if n:
        assert found[0].label == "subretinal_fluid"
        assert "vitreous" in found[0].reason
        assert ("device" if layers else "retina mask") in found[0].reason


def test_line_of_the_right_slice_is_used_and_gaps_of_it_say_nothing():
    lines = np.full((3, SHAPE[1]), 20.0)
    lines[2] = 150
    masks = {"drusen": disc((100, 120), 12)}
    assert len(check(masks, layers={"ilm": lines}, volume=True, index=2)) == 1
    lines[2] = np.nan
    assert check(masks, layers={"ilm": lines}, volume=True, index=2) == ()


def test_lesion_on_a_vessel():
    vessel = stroke((100, 5), (100, 235), 9)
    lesions = disc((100, 60), 3)
    disc((107, 120), 5, 2, lesions)  # beside, touching
    disc((30, 30), 5, 3, lesions)
    [found] = check({"microaneurysm": lesions, "vessel": vessel})
    assert (found.label, found.box[:2]) == ("microaneurysm", (98, 58))
    assert "on a vessel" in found.reason
    assert check({"microaneurysm": lesions}) == ()


@pytest.mark.parametrize("slope", [200, 80, 45])
def test_crossings_are_fine(slope):
    artery, vein = stroke((100, 5), (100, 235), 5), stroke((100 - slope // 2, 20), (100 + slope // 2, 220), 5)
    if slope == 200:
        vein = stroke((5, 110), (195, 130), 5)
    assert check({"artery": artery, "vein": vein}) == ()


def test_artery_along_a_vein():
    artery = stroke((100, 5), (100, 235), 5)
    vein = stroke((100, 60), (102, 200), 5)
    [found] = check({"artery": artery, "vein": vein})
    assert found.label == "vein"
    assert "longer than a crossing" in found.reason


def test_what_can_be_checked():
    plain = RetinalImage(np.zeros(SHAPE, np.uint8))
    lined = RetinalImage(np.zeros(SHAPE, np.uint8), layers={"ILM": np.full((1, SHAPE[1]), 9.0)})
    assert can_check(["optic_disc"], plain) and can_check(["retina", "drusen"], plain)
    assert not can_check(["drusen", "vessel", "optic_cup"], plain)
    assert can_check(["drusen"], lined) and not can_check(["retina"], lined)


def test_table(tmp_path):
    write_violations([Violation(3, "optic_disc", "an eye has one optic disc", (1, 2, 3, 4))], tmp_path / "anatomy.csv")
    with (tmp_path / "anatomy.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row == {"slice": "3", "structure": "optic_disc", "reason": "an eye has one optic disc", "y0": "1", "x0": "2",
                   "y1": "3", "x1": "4"}
    write_violations([], tmp_path / "anatomy.csv")
    assert (tmp_path / "anatomy.csv").read_text().strip() == "slice,structure,reason,y0,x0,y1,x1"


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["drishti_gs", "drive", "ravir"])
def test_expert_masks_violate_nothing(dataset):
    """Experts drew these: whatever is found in them is a false alarm."""
    from PIL import Image

    from training.data.records import read_mask, segmentation_records

    for record in segmentation_records("train", held_out=True, datasets=(dataset,)):
        with Image.open(record.image) as file:
            shape = file.size[::-1]
        masks = {label: read_mask(path, shape).astype(np.uint16) for label, path in record.masks.items()}
        prompts = tuple(Prompt(label, label, label) for label in masks)
        result = SliceResult(0, ModalityGuess(record.modality, None, "user"), prompts, masks, (), {}, {})
        assert can_check(masks, RetinalImage(np.zeros(shape, np.uint8)))
        assert find_violations(result, RetinalImage(np.zeros(shape, np.uint8))) == (), record.image.name
