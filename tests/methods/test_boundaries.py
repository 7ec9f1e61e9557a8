"""The constants of the methods, seen from both sides: a little less gives one answer, a little more the other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from napari_claps.methods.medclip import crf, regions
from napari_claps.methods.medclip.late_layer import late_layer
from napari_claps.methods.medclip.points import PointRule, PromptKind, region_points
from napari_claps.methods.medclip.prompter import upsampled, view_box
from napari_claps.methods.medclip.regions import Cut, Region, RegionRule, find_regions, salient, two_means
from napari_claps.methods.salip.automatic_masks import AutomaticMask, propose_masks
from napari_claps.methods.salip.prompter import SalipOptions, admitted, best_rows, cut_out, options_for
from napari_claps.models.networks.segmenter import MaskPrediction, PixelMaps
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt

# SaLIP


class TwoSquares:
    """A mask head that answers points in the upper half with one square, and in the lower half with another."""

    mask_threshold = 0.0
    device = torch.device("cpu")
    image_encoder = SimpleNamespace(img_size=512)

    def __init__(self, shift: int) -> None:
        self.masks = torch.full((2, 64, 96), -9.0)
        self.masks[0, 20:40, 30:50] = self.masks[1, 20:40, 30 + shift:50 + shift] = 9.0

    def predict_masks(self, maps, prompts) -> MaskPrediction:
        lower = (prompts.points[:, 0, 1] > 64).long()
        return MaskPrediction(self.masks[lower], torch.where(lower > 0, 0.8, 0.9), torch.zeros(len(lower)))


@pytest.mark.parametrize(("shift", "count"), [(3, 1), (4, 2)])
def test_proposals_are_the_same_from_an_overlap_of_seven_tenths(shift: int, count: int) -> None:
    """Boxes of 20 pixels that are 3 or 4 apart have an IoU of 0.739 or 0.667."""
    maps = PixelMaps(torch.zeros(1, 4, 8, 12), torch.zeros(1, 2, 64, 96))
    assert len(propose_masks(TwoSquares(shift), maps, 0, points_per_side=6, predicted_iou=0.1, stability=0.1)) == count


def test_clip_sees_cut_outs_of_96_pixels() -> None:
    """A column every second pixel of an object of 96: in half of them they would be grey, in twice as many broader."""
    image = torch.zeros(3, 96, 96)
    image[:, :, ::2] = 1.0
    cut = cut_out(image, AutomaticMask(np.ones((48, 48), bool), (0, 0, 48, 48), 1.0, 1.0, 1.0))
    torch.testing.assert_close(cut, image, atol=1e-5, rtol=0)


def test_of_lesions_the_best_64_are_taken_and_of_others_the_best() -> None:
    scores = np.linspace(0.9, 0.5, 70)
    lesion, disc = (options_for(make_prompt(t, Modality.CFP), SalipOptions()) for t in ("microaneurysm", "optic_disc"))
    assert best_rows(scores, range(70), lesion) == list(range(64)) and best_rows(scores, range(63), lesion)[-1] == 62
    assert best_rows(scores, range(70), disc) == [0]


def test_bounds_of_a_proposal_are_included_except_for_the_quality() -> None:
    options = SalipOptions(predicted_iou=0.5, stability=0.5, min_area=0.005, max_area=0.6, score=0.3)
    good = AutomaticMask(np.ones((2, 2), bool), (0, 0, 2, 2), 0.1, 0.51, 0.5)
    assert admitted(good, options) and not admitted(replace(good, predicted_iou=0.5), options)
    assert not admitted(replace(good, stability=0.49), options)
    areas = (0.0049, 0.005, 0.6, 0.601)
    assert [admitted(replace(good, area=a), options) for a in areas] == [False, True, True, False]
    assert best_rows(np.array([0.3, 0.29]), [0, 1], replace(options, top_k=2)) == [0]


# MedCLIP-SAM


def test_the_map_of_a_view_has_a_quarter_of_its_pixels_a_side() -> None:
    assert [upsampled(torch.rand(3, 3), size).shape for size in ((64, 96), (67, 99))] == [(16, 24)] * 2
    region = Region(np.ones((16, 24), bool), (2, 3, 5, 7), 1.0)
    assert view_box(region, 0, 0.5, (64, 96)).corners == (12, 8, 28, 20)
    assert view_box(replace(region, box=(2, 3, 16, 24)), 0, 0.5, (61, 93)).corners == (12, 8, 93, 61)


def blobs(*blocks: tuple[int, int, int, int, float]) -> np.ndarray:
    """A map of 100 x 100 with rectangles y0, x0, y1, x1 of a saliency, and 0 elsewhere."""
    saliency = np.zeros((100, 100))
    for y0, x0, y1, x1, value in blocks:
        saliency[y0:y1, x0:x1] = value
    return saliency


@pytest.mark.parametrize(("width", "kept"), [(4, False), (5, True)])
def test_a_region_has_at_least_five_ten_thousandths_of_the_view(width: int, kept: bool) -> None:
    assert bool(find_regions(blobs((10, 10, 11, 10 + width, 1)), RegionRule())) == kept


@pytest.mark.parametrize(("height", "kept"), [(70, True), (71, False)])
def test_a_region_has_at_most_seven_tenths_of_the_view(height: int, kept: bool) -> None:
    assert bool(find_regions(blobs((0, 0, height, 100, 1)), RegionRule())) == kept


@pytest.mark.parametrize(("saliency", "count"), [(0.31, 2), (0.29, 1)])
def test_a_region_is_three_tenths_as_salient_as_the_best_place(saliency: float, count: int) -> None:
    found = find_regions(blobs((10, 10, 20, 20, saliency), (60, 60, 70, 70, 1)), RegionRule(Cut.THRESHOLD))
    assert len(found) == count


def test_the_two_best_regions_are_kept_and_corners_join() -> None:
    three = blobs((10, 10, 20, 20, 0.8), (40, 40, 50, 50, 0.9), (70, 70, 80, 80, 1))
    assert [r.box[0] for r in find_regions(three, RegionRule(Cut.THRESHOLD))] == [70, 40]
    corner = blobs((10, 10, 20, 20, 1), (20, 20, 30, 30, 1))
    assert [r.box for r in find_regions(corner, RegionRule())] == [(10, 10, 30, 30)]


def test_a_tenth_above_the_cut_is_a_probability_of_073(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(regions, "refine", lambda probability, image: given.append(probability) or probability)
    relative = blobs((0, 0, 10, 100, 1), (10, 0, 20, 100, 0.6)).astype(np.float32)
    level = two_means(relative)
    found = salient(relative, RegionRule(Cut.CRF), np.zeros((100, 100, 3)))
    above = np.array([1, 0.6, 0]) - level
    np.testing.assert_allclose(given[0][[0, 15, 50], 0], expit(above / 0.1), rtol=1e-4)
    np.testing.assert_array_equal(found, relative > level)


@pytest.mark.parametrize(("distance", "chosen"), [(6, False), (7, True), (17, True), (18, False)])
def test_points_outside_lie_half_to_one_and_a_half_radii_away(distance: int, chosen: bool) -> None:
    """A disc of radius 10 in a map that is least salient at one place, so many pixels from the disc."""
    y, x = np.mgrid[:100, :100]
    mask = (y - 50) ** 2 + (x - 50) ** 2 <= 100
    saliency = np.where(mask, 1.0, 0.5)
    saliency[50, 60 + distance] = 0.0
    points = region_points(saliency, Region(mask, (40, 40, 61, 61), 1.0), [], PointRule(PromptKind.POINTS, 1, 1))
    assert [p.inside for p in points] == [True, False]
    assert ((points[1].row, points[1].column) == (50, 60 + distance)) == chosen


@pytest.mark.parametrize(("layers", "block"), [(4, 2), (8, 5), (12, 8)])
def test_the_late_layer_of_another_tower_is_at_three_quarters(layers: int, block: int) -> None:
    """Block 3 of 4, 6 of 8 and 9 of 12."""
    import open_clip

    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": layers, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    model = open_clip.CustomTextCLIP(16, vision, text).eval().requires_grad_(False)
    outputs = []
    asked = model.visual.transformer.resblocks[block]
    asked.register_forward_hook(lambda module, given, output: outputs.append(output))
    bundle = SimpleNamespace(clip=SimpleNamespace(model=model, embed=model.encode_image))
    with torch.inference_mode():
        layer = late_layer(bundle, SimpleNamespace(views=torch.rand(1, 3, 32, 32)), 0, 3)
    torch.testing.assert_close(layer.features, outputs[0][0].T)


# The conditional random field


def mean_field(probability: np.ndarray, image: np.ndarray, steps: int) -> np.ndarray:
    """Belief in the foreground by the formula, with the numbers that the module's documentation gives."""
    rows, columns = probability.shape
    places = np.array([(i, j) for i in range(rows) for j in range(columns)]) / max(rows, columns)
    colours = image.reshape(-1, 3)

    def kernel(*parts: tuple[np.ndarray, float]) -> np.ndarray:
        values = np.exp(-sum(((v[:, None] - v) ** 2).sum(-1) / 2 / width**2 for v, width in parts))
        np.fill_diagonal(values, 0)
        sums = values.sum(1) + 1e-6
        return values / np.sqrt(np.outer(sums, sums))

    pairs = 4.0 * kernel((places, 0.1), (colours, 0.05)) + 2.0 * kernel((places, 0.02))
    alone = logit(probability.ravel())
    belief = expit(alone)
    for _ in range(steps):
        belief = expit(alone + pairs @ (2 * belief - 1))
    return belief.reshape(probability.shape)


def test_ten_steps_with_the_numbers_of_the_documentation() -> None:
    rng = np.random.default_rng(3)
    probability = rng.uniform(0.3, 0.7, (12, 40))
    image = rng.random((3, 10, 3)).repeat(4, 0).repeat(4, 1) * 0.2 + rng.random((12, 40, 3)) * 0.05
    found = crf.refine(probability, image)
    np.testing.assert_allclose(found, mean_field(probability, image, 10), atol=2e-3)
    for steps in (9, 11):
        assert np.abs(found - mean_field(probability, image, steps)).max() > 5e-3, "one step more or less is seen"


@pytest.mark.parametrize(("shape", "places"), [((10, 64), 640), ((10, 63), 630), ((20, 128), 640), ((128, 20), 640)])
def test_a_field_has_at_most_64_places_along_its_long_side(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int],
                                                           places: int) -> None:
    seen = []
    gaussian = crf.gaussian
    monkeypatch.setattr(crf, "gaussian", lambda features: seen.append(len(features)) or gaussian(features))
    crf.refine(np.full(shape, 0.4), np.zeros((*shape, 3)))
    assert seen == [places, places]
