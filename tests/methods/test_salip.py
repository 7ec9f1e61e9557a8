"""SAM proposes, CLIP chooses: proposals once per view, scores that can say absent, no crash on nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_claps.errors import BundleError
from napari_claps.methods.base import Query
from napari_claps.methods.salip import prompter as salip
from napari_claps.methods.salip.automatic_masks import (
    PARTS_PER_MASK,
    AutomaticMask,
    MapsPredictor,
    connected_parts,
    point_grid,
    propose_masks,
)
from napari_claps.methods.salip.prompter import (
    DEFAULTS,
    SalipOptions,
    SalipPrompter,
    admitted,
    best_rows,
    cut_out,
    options_for,
)
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.models.networks.clip import ImageFeatures
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.segmenter import MaskPrediction, PixelMaps
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt

OPEN = SalipOptions(points_per_side=4, predicted_iou=1e-6, stability=1e-6, min_area=0.0, max_area=1.0, top_k=3,
                    score=0.0)
"""Lets everything through: the networks of the tests have random weights."""


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, device="cpu")


@pytest.fixture(scope="module")
def features(bundle: Bundle) -> ImageFeatures:
    views = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return bundle.encode(views)


class DiscSam:
    """A mask head that answers any point with discs around all centres (row, column), in pixels of its masks."""

    mask_threshold = 0.0
    device = torch.device("cpu")

    class image_encoder:
        img_size = 512

    def __init__(self, centres: list[tuple[int, int]], radius: float = 5, iou: float = 0.9) -> None:
        self.centres, self.radius, self.iou, self.calls = centres, radius, iou, 0

    def predict_masks(self, maps: PixelMaps, prompts: MaskPrompts) -> MaskPrediction:
        self.calls += 1
        y, x = torch.meshgrid(*(torch.arange(float(n)) for n in maps.pixels.shape[-2:]), indexing="ij")
        discs = [4 * (self.radius - ((y - cy) ** 2 + (x - cx) ** 2).sqrt()) for cy, cx in self.centres]
        count = len(prompts.view)
        logits = torch.stack(discs).amax(0).expand(count, -1, -1)
        return MaskPrediction(logits, torch.full((count,), self.iou), torch.zeros(count))


def maps_of(height: int, width: int) -> PixelMaps:
    return PixelMaps(torch.zeros(1, 4, height // 8, width // 8), torch.zeros(1, 2, height, width))


def propose(sam: DiscSam, **options: float) -> list[AutomaticMask]:
    defaults = {"points_per_side": 6, "predicted_iou": 0.1, "stability": 0.1}
    return propose_masks(sam, maps_of(64, 96), 0, **defaults | options)


def test_the_parts_of_a_mask_are_proposals_of_their_own() -> None:
    found = propose(DiscSam([(20, 20), (40, 70)]))
    assert sorted(m.box for m in found) == [(16, 16, 25, 25), (66, 36, 75, 45)]  # 24 points, but two objects
    assert all(m.area == pytest.approx(m.mask.sum() / (64 * 96)) and 0.5 < m.quality <= 0.9 for m in found)


def test_one_batch_of_points_and_no_encoder() -> None:
    sam = DiscSam([(20, 20)])
    propose(sam)
    assert sam.calls == 1  # 6 x 4 points; a DiscSam has no encoder that could run


@pytest.mark.parametrize("options", [{"predicted_iou": 0.95}, {"stability": 0.99}, {"min_area": 0.5},
                                     {"max_area": 1e-4}, {"level": 100.0}])
def test_bounds_can_leave_nothing(options: dict[str, float]) -> None:
    assert propose(DiscSam([(20, 20)]), **options) == []


@pytest.mark.parametrize("iou", [float("nan"), 0.9])
def test_maps_that_are_not_finite_propose_nothing(iou: float) -> None:
    sam = DiscSam([(20, 20)], radius=float("nan") if iou == 0.9 else 5, iou=iou)
    assert propose(sam) == []


def test_thousands_of_objects_are_capped_by_quality() -> None:
    sam = DiscSam([(y, x) for y in range(2, 64, 4) for x in range(2, 96, 4)], radius=1.5)
    assert len(propose(sam, limit=1000)) == PARTS_PER_MASK < 16 * 24
    capped = propose(sam, limit=10)
    assert len(capped) == 10 and [m.quality for m in capped] == sorted((m.quality for m in capped), reverse=True)


def test_a_mask_of_noise_is_a_few_hundred_parts_and_not_thousands() -> None:
    noise = np.random.default_rng(0).random((256, 256)) < 0.2
    parts = connected_parts(noise, 0.5, 0.5)
    assert len(parts) == PARTS_PER_MASK and ndimage.label(noise, structure=np.ones((3, 3)))[1] > 3000
    smallest = min(p.area for p in parts)
    assert len(connected_parts(noise, 0.5, 0.5, min_area=smallest * 1.001)) < PARTS_PER_MASK  # the largest are kept
    assert all(p.mask.sum() == round(p.area * noise.size) for p in parts)


def test_parts_touch_at_corners() -> None:
    mask = np.zeros((6, 8), bool)
    mask[[1, 2, 3], [1, 2, 3]] = mask[5, 7] = True
    assert [(p.box, p.mask.sum()) for p in connected_parts(mask, 0.5, 0.5)] == [((1, 1, 4, 4), 3), ((7, 5, 8, 6), 1)]


def test_points_keep_square_cells() -> None:
    grid = point_grid(100, 400, 8)
    assert len(grid) == 16 and np.allclose(grid[0], (1 / 16, 1 / 4)) and (grid > 0).all() and (grid < 1).all()
    assert len(point_grid(10, 1000, 8)) == 8  # never no row


def test_points_reach_sam_in_pixels_of_the_view(bundle: Bundle, features: ImageFeatures) -> None:
    maps = bundle.segmenter.decode_pixels(features, "cfp")
    predictor = MapsPredictor(bundle.segmenter, maps, 1)
    point, label = torch.tensor([[[10.0, 6.0]]]), torch.ones(1, 1)
    with torch.inference_mode():
        logits, iou, _ = predictor.predict_torch(point, label, return_logits=True)
        wanted = bundle.segmenter.predict_masks(maps, MaskPrompts(
            view=torch.tensor([1]), points=torch.tensor([[[20.0, 12.0]]]), point_labels=label))
    assert torch.allclose(logits[0, 0], wanted.logits[0], atol=1e-5) and iou.shape == (1, 1)


def test_a_cut_out_is_the_object_alone() -> None:
    image = torch.full((3, 64, 96), 2.0)
    mask = np.ones((4, 8), bool)
    mask[:, :4] = False
    cut = cut_out(image, AutomaticMask(mask, (3, 5, 11, 9), 0.1, 1.0, 1.0), side=32)
    assert cut.shape == (3, 32, 32)
    inside = cut[0] > 1
    assert not cut[:, :7].any() and not cut[:, 25:].any() and not cut[:, :, :15].any()  # blank, and a square
    assert inside[8:24, 17:].all()


def test_scores_are_probabilities_among_targets(bundle: Bundle, features: ImageFeatures) -> None:
    modality = Modality.OCT
    queries = [Query(make_prompt(t, modality), bundle.manifest.pair(modality, t))
               for t in bundle.manifest.targets(modality)]
    masks = [AutomaticMask(np.ones((8, 8), bool), (4, 4, 12, 12), 0.02, 1.0, 1.0)] * 3
    scores = SalipPrompter(bundle).score(features.image[0], masks, queries)
    assert scores.shape == (3, len(queries))
    assert (scores.sum(1) < 1).all() and (scores > 0).all()  # the rest is "nothing in particular"
    assert SalipPrompter(bundle).score(features.image[0], [], queries).shape == (0, len(queries))


def test_the_proposals_serve_all_targets_and_the_maps_are_made_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    calls = {"encode": 0, "decode": 0, "propose": 0}

    def counted(name, original):
        def call(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)
        return call

    with torch.inference_mode():
        fresh = bundle.encode(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    encoder = bundle.segmenter.image_encoder
    decoder = encoder.pixel_decoder
    monkeypatch.setattr(decoder, "forward", counted("decode", decoder.forward))
    monkeypatch.setattr(salip, "propose_masks", counted("propose", propose_masks))
    monkeypatch.setattr(encoder, "forward", counted("encode", encoder.forward))
    find(bundle, fresh, OPEN)
    bundle.segmenter.decode_pixels(fresh, "cfp")
    assert calls == {"encode": 0, "decode": 1, "propose": 2}  # two views, three prompts


def find(bundle: Bundle, features: ImageFeatures, options: SalipOptions) -> list[list]:
    prompts = [make_prompt(t, Modality.OCT) for t in ("drusen", "intraretinal_fluid", "a dark cyst")]
    queries = [Query(p, bundle.manifest.pair(Modality.OCT, p.target) or Pair(Modality.OCT, p.label)) for p in prompts]
    return SalipPrompter(bundle, {Modality.OCT: options}).find(features, queries, (64, 96))


def test_boxes_of_every_view_best_first(bundle: Bundle, features: ImageFeatures) -> None:
    found = find(bundle, features, OPEN)
    assert len(found) == 2 and any(found)
    for boxes in found:
        assert [b.score for b in boxes] == sorted((b.score for b in boxes), reverse=True)
        for box in boxes:
            x0, y0, x1, y1 = box.corners
            assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 64 and 0 < box.score < 1
        assert all(sum(b.prompt == p for b in boxes) <= OPEN.top_k for p in range(3))
    assert find(bundle, features, OPEN) == found


def test_below_the_score_a_target_is_absent(bundle: Bundle, features: ImageFeatures) -> None:
    assert find(bundle, features, replace(OPEN, score=1.0)) == [[], []]


def test_values_that_are_no_numbers_are_an_error_not_an_absence(bundle: Bundle, features: ImageFeatures) -> None:
    broken = replace(features, levels=tuple(level * float("nan") for level in features.levels), memo={})
    with pytest.raises(BundleError, match=r"bundle tiny gave values that are no numbers \(NaN"):
        find(bundle, broken, OPEN)
    # The maps of the mask head are good, the cut-outs are not.
    maps = bundle.segmenter.decode_pixels(features, "cfp")
    blind = replace(features, image=features.image * float("nan"), memo={"sam": maps})
    with pytest.raises(BundleError, match="no numbers"):
        find(bundle, blind, OPEN)


def test_options_admit_and_rank() -> None:
    mask = AutomaticMask(np.ones((2, 2), bool), (0, 0, 2, 2), 0.01, 0.5, 0.4)
    assert admitted(mask, OPEN)
    for change in ({"predicted_iou": 0.5}, {"stability": 0.5}, {"min_area": 0.02}, {"max_area": 0.005}):
        assert not admitted(mask, replace(OPEN, **change))
    scores = np.array([0.2, float("nan"), 0.7, 0.1, 0.4])
    assert best_rows(scores, range(5), replace(OPEN, top_k=2, score=0.15)) == [2, 4]
    assert best_rows(scores, [0, 1, 3], replace(OPEN, top_k=2, score=0.15)) == [0]


def test_lesions_may_be_small_and_many() -> None:
    options = SalipOptions(min_area=0.01, top_k=1)
    assert options_for(make_prompt("optic_disc", Modality.CFP), options) == options
    assert options_for(make_prompt("a round spot", Modality.CFP), options) == options
    lesion = options_for(make_prompt("microaneurysm", Modality.CFP), options)
    assert lesion.min_area == 0 and lesion.top_k > 40 and lesion.score == options.score


def test_every_modality_has_defaults() -> None:
    assert set(DEFAULTS) == set(Modality)
    assert all(o.predicted_iou > 0 and o.stability > 0 and o.top_k >= 1 and 0 < o.score < 1 for o in DEFAULTS.values())
