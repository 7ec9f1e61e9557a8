"""Points that prompt SAM: where medclip-sam puts them, and that they reach the mask head with the right label."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_claps.inference.pipeline import Pipeline
from napari_claps.methods.base import Query, ViewBox, ViewPoint
from napari_claps.methods.medclip.m2ib import Bottleneck
from napari_claps.methods.medclip.options import MedClipOptions, make_options
from napari_claps.methods.medclip.points import PointRule, PromptKind, region_points
from napari_claps.methods.medclip.prompter import MAP_STRIDE, MedClipSamPrompter
from napari_claps.methods.medclip.regions import Cut, Region, RegionRule, find_regions
from napari_claps.methods.sam_prompts import ask_masks
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.segmenter import PixelMaps
from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage
from napari_claps.words.vocabulary import make_prompt

POINTS = PointRule(PromptKind.POINTS, positives=3, negatives=4)


@pytest.fixture(scope="module", params=["tiny_bundle", "official_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """Our mask head, and the official SAM."""
    return load_bundle(request.getfixturevalue(request.param), device="cpu")


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, device="cpu")


# Where the points are

def two_hills() -> np.ndarray:
    """A high one at (12, 15) and a lower one at (12, 45)."""
    y, x = np.mgrid[:40, :60]
    return 5 * np.exp(-((y - 12) ** 2 + (x - 15) ** 2) / 40) + 4 * np.exp(-((y - 12) ** 2 + (x - 45) ** 2) / 40)


def test_points_inside_are_the_most_salient_and_spread_out() -> None:
    saliency = two_hills()
    regions = find_regions(saliency, RegionRule(Cut.THRESHOLD, 0.3))
    first, *others = region_points(saliency, regions[0], regions, PointRule(PromptKind.POINTS, 4))
    assert (first.row, first.column, first.inside) == (12, 15, True) and len(others) == 3
    values = saliency[regions[0].mask]
    assert all(p.inside and saliency[p.row, p.column] >= np.median(values) for p in others)
    everywhere = [(p.row, p.column) for p in (first, *others)]
    gaps = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in everywhere for b in everywhere if a != b]
    assert min(gaps) >= 3  # the radius of the region is about 6


def test_points_outside_are_little_salient_and_in_no_other_region() -> None:
    saliency = two_hills()
    regions = find_regions(saliency, RegionRule(Cut.THRESHOLD, 0.05))
    assert len(regions) == 2
    for region in regions:
        outside = [p for p in region_points(saliency, region, regions, POINTS) if not p.inside]
        assert len(outside) == POINTS.negatives
        y0, x0, y1, x1 = region.box
        size = max(y1 - y0, x1 - x0)
        for point in outside:
            assert not any(r.mask[point.row, point.column] for r in regions)
            assert saliency[point.row, point.column] < 0.05 * saliency.max()
            assert y0 - size <= point.row < y1 + size and x0 - size <= point.column < x1 + size  # just outside


def test_boxes_alone_have_no_points_and_no_room_gives_fewer() -> None:
    saliency = two_hills()
    whole = Region(np.ones(saliency.shape, bool), (0, 0, 40, 60), 0.5)
    assert region_points(saliency, whole, [], PointRule(PromptKind.BOXES, 5, 5)) == []
    assert all(p.inside for p in region_points(saliency, whole, [whole], POINTS))
    pixel = np.zeros(saliency.shape, bool)
    pixel[0, 0] = True
    found = region_points(saliency, Region(pixel, (0, 0, 1, 1), 1.0), [], POINTS)
    assert [(p.row, p.column) for p in found if p.inside] == [(0, 0)]


@given(seed=st.integers(0, 500), positives=st.integers(1, 6), negatives=st.integers(0, 6))
def test_points_of_any_region(seed: int, positives: int, negatives: int) -> None:
    saliency = np.random.default_rng(seed).gamma(0.5, size=(14, 17))
    regions = find_regions(saliency, RegionRule(components=3, min_share=0.0))
    for region in regions:
        points = region_points(saliency, region, regions, PointRule(PromptKind.BOTH, positives, negatives))
        places = [(p.row, p.column) for p in points]
        assert len(set(places)) == len(places)
        assert 1 <= sum(p.inside for p in points) <= positives and sum(not p.inside for p in points) <= negatives
        assert all(region.mask[p.row, p.column] == p.inside for p in points)


@pytest.mark.parametrize(("positives", "negatives"), [(0, 3), (1, -1)])
def test_a_rule_without_a_positive_point_is_refused(positives: int, negatives: int) -> None:
    with pytest.raises(ValueError, match=f"prompts = 'points' with {positives} positive and {negatives} negative"):
        PointRule(PromptKind.POINTS, positives, negatives)
    assert PointRule(positives=0).prompts is PromptKind.BOXES


def test_the_options_file_names_the_prompts() -> None:
    made = make_options({"prompts": "both", "positives": 4, "negatives": 2, "layer": 4})
    assert made.points == PointRule(PromptKind.BOTH, 4, 2) and made.bottleneck.layer == 4
    with pytest.raises(ValueError, match="circles"):
        make_options({"prompts": "circles"})


# The prompter

def prompter(bundle: Bundle, rule: PointRule) -> MedClipSamPrompter:
    options = MedClipOptions(Bottleneck(steps=2, draws=2), RegionRule(min_share=0.0, max_share=1.0), rule, templates=1)
    return MedClipSamPrompter(bundle, dict.fromkeys(Modality, options))


@torch.inference_mode()
def features_of(bundle: Bundle, count: int = 1):
    return bundle.encode(torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", PromptKind)
def test_the_prompter_gives_points_in_pixels_of_the_view(bundle: Bundle, kind: PromptKind) -> None:
    queries = [Query(make_prompt("optic_disc", Modality.CFP), Pair(Modality.CFP, "optic_disc"))]
    rule = PointRule(kind, 2, 2)
    (found,) = prompter(bundle, rule).find(features_of(bundle), queries, (64, 96))
    assert found
    for box in found:
        x0, y0, x1, y1 = box.corners
        assert box.points_alone is (kind is PromptKind.POINTS)
        assert bool(box.points) is (kind is not PromptKind.BOXES)
        for point in box.points:
            assert 0 < point.x < 96 and 0 < point.y < 64
            assert point.x % MAP_STRIDE == point.y % MAP_STRIDE == MAP_STRIDE / 2
            assert not point.inside or (x0 < point.x < x1 and y0 < point.y < y1)
    boxes = prompter(bundle, PointRule()).find(features_of(bundle), queries, (64, 96))[0]
    assert [dataclasses.replace(b, points=(), points_alone=False) for b in found] == boxes


# The mask head

CORNERS = (16.0, 8.0, 60.0, 50.0)
INSIDE, OUTSIDE = ViewPoint(30.0, 22.0, True), ViewPoint(70.0, 22.0, False)


@torch.inference_mode()
def masks(bundle: Bundle, boxes: list[ViewBox | None], text: torch.Tensor | None = None) -> torch.Tensor:
    maps = bundle.segmenter.decode_pixels(features_of(bundle), "cfp")
    views = torch.zeros(len(boxes), dtype=torch.int64)
    return ask_masks(bundle.segmenter, maps, views, text, boxes).logits


def test_points_change_the_mask(bundle: Bundle) -> None:
    box = ViewBox(CORNERS, 0, 0.5)
    both = dataclasses.replace(box, points=(INSIDE,))
    alone = dataclasses.replace(both, points_alone=True)
    shunned = dataclasses.replace(both, points=(INSIDE, OUTSIDE))
    sought = dataclasses.replace(both, points=(INSIDE, dataclasses.replace(OUTSIDE, inside=True)))
    elsewhere = dataclasses.replace(alone, points=(ViewPoint(80.0, 50.0, True),))
    found = masks(bundle, [box, both, alone, shunned, sought, elsewhere])
    for i in range(len(found)):
        for j in range(i):
            assert not torch.allclose(found[i], found[j], atol=1e-4), (i, j)


def test_a_prompt_gives_the_same_mask_whatever_goes_with_it(bundle: Bundle) -> None:
    box = ViewBox(CORNERS, 0, 0.5)
    boxes = [dataclasses.replace(box, points=(INSIDE, OUTSIDE)), None, box, dataclasses.replace(box, points=(INSIDE,)),
             ViewBox((4.0, 4.0, 40.0, 30.0), 0, 0.1)]
    text = None
    if bundle.takes_text:
        text = torch.full((5, 16), float("nan"))
        text[1] = bundle.clip_text(("optic disc",))[0]
    together = masks(bundle, boxes, text)
    for i, one in enumerate(boxes):
        alone = masks(bundle, [one], None if text is None else text[i:i + 1])[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


class Listener:
    """Stands before a mask head and keeps what it was asked."""

    def __init__(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[MaskPrompts] = []
        original = bundle.segmenter.predict_masks

        def predict(maps: PixelMaps, prompts: MaskPrompts):
            self.asked.append(prompts)
            return original(maps, prompts)

        monkeypatch.setattr(bundle.segmenter, "predict_masks", predict)


def test_a_negative_point_is_sent_with_label_0_and_without_the_box(ours: Bundle, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    listener = Listener(ours, monkeypatch)
    box = ViewBox(CORNERS, 0, 0.5, (INSIDE, OUTSIDE))
    masks(ours, [dataclasses.replace(box, points_alone=True), box])
    (prompts,) = listener.asked
    assert prompts.points.tolist() == [[[30.0, 22.0], [70.0, 22.0]]] * 2
    assert prompts.point_labels.tolist() == [[1.0, 0.0]] * 2
    assert prompts.boxes[0].isnan().all() and prompts.boxes[1].tolist() == list(CORNERS)


def test_the_pipeline_sends_the_points_and_layers_stay_as_they_are(bundle: Bundle, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    image = RetinalImage((np.random.default_rng(0).random((40, 64)) * 255).astype(np.uint8), modality=Modality.OCT)
    targets = ["drusen", "retina"]
    results = {}
    for kind in PromptKind:
        made = Pipeline(bundle, Settings(method="medclip-sam"))
        made._prompter = prompter(bundle, PointRule(kind, 2, 1))
        listener = Listener(bundle, monkeypatch)
        results[kind] = next(iter(made.run(image, targets)))
        monkeypatch.undo()
        labels = [label for asked in listener.asked if asked.point_labels is not None
                  for label in asked.point_labels.flatten().tolist()]
        assert set(labels) == (set() if kind is PromptKind.BOXES else {0.0, 1.0})
        boxed = any(asked.boxes is not None and asked.boxes.isfinite().any() for asked in listener.asked)
        assert boxed is (kind is not PromptKind.POINTS)
    if bundle.takes_text:  # a layer has no box and no point
        for kind in PromptKind:
            np.testing.assert_array_equal(results[kind].masks["retina"], results[PromptKind.BOXES].masks["retina"])
