"""The constants of trust, seen from both sides: a little less gives one answer, a little more the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from skimage.draw import disk

from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.anatomy import find_violations
from napari_claps.trust.calibration import calibrated_presence, calibration_error, fit_calibration, presence_inputs
from napari_claps.trust.conformal import band, band_level, controlled, inner_thresholds, outer_thresholds
from napari_claps.trust.modality_guard import modality_warning
from napari_claps.trust.prompt_check import TextKind, Trial
from napari_claps.types import Modality, ModalityGuess, Prompt, RetinalImage, SliceResult, SpacingSource

SHAPE = (240, 320)


def found(*, spacing=None, layers=None, **masks: np.ndarray) -> list[str]:
    """Labels of the violations in a slice with these masks."""
    image = RetinalImage(np.zeros(SHAPE, np.uint8), spacing=spacing, layers=layers or {},
                         spacing_source=SpacingSource.FILE if spacing else SpacingSource.NONE)
    guess = ModalityGuess(Modality.CFP, None, "user")
    prompts = tuple(Prompt(label, label, label) for label in masks)
    planes = {label: mask.astype(np.uint16) for label, mask in masks.items()}
    return [v.label for v in find_violations(SliceResult(0, guess, prompts, planes, (), {}, {}), image)]


def rectangle(y0: int, x0: int, y1: int, x1: int, mask: np.ndarray | None = None, number: int = 1) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint16) if mask is None else mask
    mask[y0:y1, x0:x1] = number
    return mask


def circle(radius: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[disk((120, 120), radius + 0.5, shape=SHAPE)] = True
    return mask


# Disc and cup


@pytest.mark.parametrize(("radius", "margin"), [(100, 6), (50, 3), (5, 1)])
def test_a_cup_may_reach_over_the_rim_by_three_hundredths_of_the_disc_but_a_pixel_always(radius: int,
                                                                                        margin: int) -> None:
    """The last column of the disc is 120 + radius; the cup is a band of one row, so that any pixel outside counts."""
    disc = circle(radius)
    for reach, wrong in ((margin, []), (margin + 1, ["optic_cup"])):
        cup = rectangle(120, 121 + radius - 4, 121, 121 + radius + reach)
        assert found(optic_disc=disc, optic_cup=cup) == wrong, reach


@pytest.mark.parametrize(("beyond", "wrong"), [(19, []), (20, ["optic_cup"])])
def test_two_hundredths_of_a_cup_must_lie_outside(beyond: int, wrong: list[str]) -> None:
    """A cup of 1000 pixels, of which some lie far from the disc."""
    cup = rectangle(100, 100, 140, 125)
    cup[200, 290:290 + beyond] = 1
    cup[139, 125 - beyond:125] = 0
    assert np.count_nonzero(cup) == 1000
    assert found(optic_disc=circle(60), optic_cup=cup) == wrong


def test_a_cup_without_a_disc_is_framed_to_the_pixel() -> None:
    masks = {"optic_cup": rectangle(30, 40, 51, 73), "optic_disc": rectangle(0, 0, 0, 0)}
    guess, prompts = ModalityGuess(Modality.CFP, None, "user"), tuple(Prompt(label, label, label) for label in masks)
    result = SliceResult(0, guess, prompts, masks, (), {}, {})
    (violation,) = find_violations(result, RetinalImage(np.zeros(SHAPE, np.uint8)))
    assert violation.box == (30, 40, 51, 73)


@pytest.mark.parametrize(("pixels", "wrong"), [(99, []), (100, ["optic_disc"])])
def test_a_second_disc_has_a_twentieth_of_the_first(pixels: int, wrong: list[str]) -> None:
    discs = rectangle(20, 20, 60, 70)  # 2000 pixels
    discs[200, 100:100 + pixels] = 2
    assert found(optic_disc=discs) == wrong


# The surface of the retina


@pytest.mark.parametrize(("spacing", "margin"), [((0.005, 0.01), 6), ((0.002, 0.01), 15), (None, 8)])
def test_fluid_may_reach_above_the_surface_by_30_micrometres_or_8_pixels(spacing: tuple[float, float] | None,
                                                                         margin: int) -> None:
    """Fluid of two rows: above the margin is none of it, or half."""
    line = {"ILM": np.full((1, SHAPE[1]), 80.0)}
    for top, wrong in ((80 - margin, []), (80 - margin - 1, ["subretinal_fluid"])):
        fluid = rectangle(top, 100, top + 2, 120)
        assert found(spacing=spacing, layers=line, subretinal_fluid=fluid) == wrong, top


@pytest.mark.parametrize(("top", "wrong"), [(63, []), (62, ["drusen"])])
def test_a_tenth_of_an_object_must_lie_above_the_surface(top: int, wrong: list[str]) -> None:
    """Objects of 100 rows, with 9 or 10 above row 72, the surface less its margin."""
    line = {"ILM": np.full((1, SHAPE[1]), 80.0)}
    assert found(layers=line, drusen=rectangle(top, 100, top + 100, 110)) == wrong


@pytest.mark.parametrize(("width", "wrong"), [(14, []), (15, ["drusen"])])
def test_a_notch_of_fewer_than_15_columns_is_no_surface(width: int, wrong: list[str]) -> None:
    """The deepest point of a notch is an object's place; it lies above the notch and below the surface beside it."""
    retina = rectangle(80, 0, 160, SHAPE[1])
    retina[80:120, 100:100 + width] = 0
    assert found(retina=retina, drusen=rectangle(90, 107, 100, 108)) == wrong


# Vessels


@pytest.mark.parametrize(("covered", "wrong"), [(8, []), (9, ["haemorrhage"])])
def test_a_lesion_is_on_a_vessel_from_nine_tenths_of_it(covered: int, wrong: list[str]) -> None:
    vessel = rectangle(0, 100, SHAPE[0], 100 + covered)
    assert found(haemorrhage=rectangle(50, 100, 60, 110), vessel=vessel) == wrong


@pytest.mark.parametrize(("height", "fine", "too_long"), [(10, 58, 61), (20, 117, 120)])
def test_artery_and_vein_may_share_six_widths(height: int, fine: int, too_long: int) -> None:
    """The diagonal of what they share is just below and above 60 and 120 pixels."""
    artery = rectangle(100, 0, 100 + height, SHAPE[1])
    for length, wrong in ((fine, []), (too_long, ["vein"])):
        assert found(artery=artery, vein=rectangle(100, 90, 100 + height, 90 + length)) == wrong, length


@pytest.mark.parametrize(("length", "wrong"), [(17, []), (18, ["vein"])])
def test_thin_vessels_count_as_three_pixels_wide(length: int, wrong: list[str]) -> None:
    """Lines of one row: what they share is a little longer than it has columns."""
    assert found(artery=rectangle(100, 0, 101, 300), vein=rectangle(100, 90, 101, 90 + length)) == wrong


# Calibration


def test_scores_are_told_apart_from_a_ten_thousandth_on() -> None:
    for near, far in ((0.0, 1e-4), (1.0, 1 - 1e-4)):
        inside = near + (far - near) * 0.9
        beyond = near + (far - near) * 1.1
        logit = {p: presence_inputs(p, np.full((4, 4), p))["presence"] for p in (near, inside, far, beyond)}
        assert logit[near] == logit[inside] == pytest.approx(logit[far]) and abs(logit[beyond] - logit[far]) > 0.05
        assert logit[far] == pytest.approx(math.log(far / (1 - far)), rel=1e-6)


def test_shares_of_a_slice_are_told_apart_from_a_thousandth_on() -> None:
    area = [presence_inputs(0.5, np.full((4, 4), p))["area"] for p in (0.0, 1e-5, 1e-3, 1e-2)]
    np.testing.assert_allclose(area, np.log([0.001, 0.00101, 0.002, 0.011]), atol=1e-5)


def test_the_best_box_counts_and_none_is_zero() -> None:
    empty = np.zeros((4, 4))
    assert presence_inputs(0.5, empty)["box"] == 0
    assert presence_inputs(0.5, empty, [(0, 0, 1, 1, 0.2), (0, 0, 1, 1, 0.6), (0, 0, 1, 1, 0.4)])["box"] == 0.6


def test_the_ridge_of_a_slope_is_a_half_of_an_image() -> None:
    """Twenty images that one input separates: where the derivative of the loss of the notes is zero."""
    fitted = fit_calibration({"box": [-1.0] * 10 + [1.0] * 10}, [False] * 10 + [True] * 10)
    slope = fitted["box"]
    assert fitted["offset"] == pytest.approx(0, abs=1e-4) and 1 < slope < 2
    assert expit(slope) - 11 / 12 + 2 * 0.5 / 20 * slope == pytest.approx(0, abs=1e-4)


def test_a_calibration_adds_its_inputs() -> None:
    inputs = {"presence": 1.0, "mask": 2.0, "box": 0.5, "area": -3.0}
    calibration = {"offset": -1.0, "mask": 0.5, "area": 0.25}
    assert calibrated_presence(calibration, inputs) == pytest.approx(1 / (1 + math.exp(0.75)))


def test_groups_of_the_reliability_curve_are_of_about_equal_size() -> None:
    probability, present = [0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9], [False, False, True, True, False, True, True]
    error, groups = calibration_error(probability, present, bins=2)
    assert [g["n"] for g in groups] == [3, 4]
    assert error == pytest.approx((3 * abs(0.2 - 1 / 3) + 4 * abs(0.75 - 0.75)) / 7)


# Inner and outer masks


def test_thresholds_lie_between_two_thousandths_and_998() -> None:
    assert outer_thresholds(0.5)[[0, 1, -2, -1]].tolist() == pytest.approx([0.5, 0.49, 0.005, 0.002])
    assert inner_thresholds(0.5)[[0, 1, -2, -1]].tolist() == pytest.approx([0.5, 0.51, 0.995, 0.998])


def test_a_sum_of_fractions_that_rounding_lifts_above_the_bound_is_enough() -> None:
    assert controlled(np.zeros((9, 1)), 0.9) == 0, "1 / 10 against 1 - 0.9, which is a little less"
    assert controlled(np.full((9, 1), 1e-6), 0.9) is None


def test_pixels_at_the_thresholds_are_in_the_masks() -> None:
    pair = Pair(Modality.OCT, "drusen", inner={"0.8": 0.75, "0.9": 0.9}, outer={"0.8": 0.25})
    probability = np.array([[0.24, 0.25, 0.5, 0.74, 0.75]])
    inner, outer = band(probability, probability >= 0.5, pair, "0.8", absent=False)
    assert inner.tolist() == [[False, False, False, False, True]]
    assert outer.tolist() == [[False, True, True, True, True]]
    assert (band_level(pair, 0.8), band_level(pair, 0.8 + 1e-12), band_level(pair, 0.81)) == ("0.8", "0.8", None)


# Warnings


@pytest.mark.parametrize(("probability", "warned"), [(0.79, False), (0.8, True)])
def test_a_detection_warns_from_eight_tenths_on(probability: float, warned: bool) -> None:
    guess = ModalityGuess(Modality.OCT, probability, "detected")
    assert (modality_warning(Modality.CFP, guess) is not None) == warned


@pytest.mark.parametrize(("dice", "suspect"), [(0.49, False), (0.5, True)])
def test_masks_of_two_texts_agree_too_much_from_a_dice_of_a_half(dice: float, suspect: bool) -> None:
    assert Trial("drusen", TextKind.TARGET, "shrm", "text", 10, dice).is_suspect == suspect
    assert not Trial("vessel", TextKind.TARGET, "artery", "text", 10, 1.0).is_suspect, "one is a part of the other"
    assert not Trial("drusen", TextKind.TRUE, "drusen", "text", 10, 1.0).is_suspect
