"""The constants that decide what a pipeline answers, seen from both sides, with networks of random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_claps.inference import pipeline as pipeline_module
from napari_claps.inference import single_scale
from napari_claps.inference.decision import Scores, decide
from napari_claps.inference.pipeline import Pipeline
from napari_claps.inference.single_scale import ScaleResult
from napari_claps.methods.base import ViewBox
from napari_claps.methods.claps import ClapsPrompter
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage


def pixels_found(bundle: Path, monkeypatch: pytest.MonkeyPatch, seen: float, *, modality: Modality = Modality.OCT,
                 target: str = "drusen", more: bool = False, **pair: float) -> int:
    """Size of the mask where the networks see 20 pixels (and 20 `more`) of 80 x 128, at five times that scale."""
    probability = np.zeros((1, 80, 128), np.float32)
    probability[0, 15:20, 15:19] = 0.9
    probability[0, 55:60, 15:19] = 0.8 * more
    result = ScaleResult(probability, np.array([seen]), [[]], {})
    monkeypatch.setattr(single_scale, "segment_at_scale", lambda *question, **more: [result])
    shown = load_bundle(bundle, device="cpu")
    pairs = (Pair(modality, target, threshold=0.5, **pair),)
    pipeline = Pipeline(replace(shown, manifest=replace(shown.manifest, pairs=pairs)))
    image = RetinalImage(np.zeros((80, 128), np.uint8), modality=modality)
    return np.count_nonzero(next(iter(pipeline.run(image, [target]))).masks[target])


@pytest.mark.parametrize(("presence", "pixels"), [(0.5, 20), (0.499, 0)])
def test_a_target_is_present_from_its_presence_on(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, presence: float,
                                                  pixels: int) -> None:
    assert pixels_found(tiny_bundle, monkeypatch, presence, presence=0.5, min_area=0) == pixels


@pytest.mark.parametrize(("min_area", "pixels"), [(495, 20), (505, 0)])
def test_the_smallest_area_is_that_of_the_working_scale(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch,
                                                        min_area: float, pixels: int) -> None:
    """20 pixels of the slice are 500 of the scaled one."""
    assert pixels_found(tiny_bundle, monkeypatch, 1.0, presence=0.0, min_area=min_area) == pixels


def test_an_eye_has_one_disc_and_as_many_drusen_as_are_seen(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [pixels_found(tiny_bundle, monkeypatch, 1.0, modality=modality, target=target, more=True, presence=0.0)
             for modality, target in ((Modality.OCT, "drusen"), (Modality.CFP, "drusen"), (Modality.CFP, "optic_disc"))]
    assert sizes[:2] == [40, 40] and 15 <= sizes[2] <= 25


@pytest.fixture
def asked(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """The boxes (y0, x0, y1, x1, score) about which is decided, where the same are found in every view."""

    def ask(boxes: list[ViewBox], modality: Modality, target: str, shape: tuple[int, int]) -> list:
        seen = []

        def spy(*question, **more):
            seen.extend(part.boxes for part in question if isinstance(part, Scores))
            return decide(*question, **more)

        monkeypatch.setattr(ClapsPrompter, "find", lambda self, *question: [boxes])
        monkeypatch.setattr(pipeline_module, "decide", spy)
        image = RetinalImage(np.random.default_rng(0).integers(0, 255, shape, np.uint8), modality=modality)
        next(iter(Pipeline.from_settings(Settings(bundle=str(tiny_bundle), device="cpu")).run(image, [target])))
        return list(seen[0])

    return ask


def test_boxes_come_back_in_pixels_of_the_slice(asked: Callable[..., list]) -> None:
    """A slice of 80 x 128 is seen five times as large."""
    (box,) = asked([ViewBox((100.0, 50.0, 300.0, 200.0), 0, 0.7)], Modality.OCT, "drusen", (80, 128))
    assert box == pytest.approx((10, 20, 40, 60, 0.7))


def test_boxes_of_tiles_come_back_in_pixels_of_the_slice(asked: Callable[..., list]) -> None:
    """768 pixels are seen as 1536, which take four tiles that begin at 0, 340, 684 and 1024."""
    boxes = asked([ViewBox((100.0, 50.0, 300.0, 200.0), 0, 0.7)], Modality.CFP, "microaneurysm", (480, 768))
    assert {(b[0], b[2]) for b in boxes} == {(25, 100), (249, 324)}
    assert {(b[1], b[3]) for b in boxes} == {(50, 150), (221, 321), (391, 491), (562, 662)}


@pytest.mark.usefixtures("small_views")
@pytest.mark.parametrize(("given", "kept"), [(47, 47), (48, 48), (50, 48)])
def test_the_best_48_boxes_of_a_view_are_asked_for_masks(asked: Callable[..., list], given: int, kept: int) -> None:
    boxes = [ViewBox((4.0, 4.0, 20.0 + k / 10, 30.0), 0, 1 - k / 100) for k in range(given)]
    found = asked(boxes, Modality.OCT, "drusen", (40, 64))
    assert [box[4] for box in found] == [box.score for box in boxes[:kept]]


@pytest.mark.usefixtures("small_views")
def test_a_layer_is_that_of_its_text_whatever_is_asked_with_it(tiny_bundle: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the mask of drusen comes from their boxes; a layer has none."""
    seen = []

    def spy(*question, **more):
        seen.extend(part.probability for part in question if isinstance(part, Scores))
        return decide(*question, **more)

    monkeypatch.setattr(pipeline_module, "decide", spy)
    image = RetinalImage(np.random.default_rng(0).integers(0, 255, (40, 64), np.uint8), modality=Modality.OCT)
    pipeline = Pipeline(load_bundle(tiny_bundle, device="cpu"))
    for targets in (["retina"], ["retina", "drusen"]):
        next(iter(pipeline.run(image, targets)))
    alone, together, _ = seen
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(("depth", "looked_at"), [(1, [0]), (3, [0, 1, 2]), (24, [6, 12, 18]), (50, [12, 25, 37])])
def test_the_modality_is_seen_in_the_slices_at_a_quarter_a_half_and_three_quarters(
        tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, depth: int, looked_at: list[int]) -> None:
    seen = []

    def spy(bundle, planes, side):
        seen.append((side, [round(float(plane.mean()) * 255) for plane in planes]))
        return torch.ones(len(planes), 16)

    monkeypatch.setattr(single_scale, "encode_whole", spy)
    image = RetinalImage(np.arange(depth, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2))
    Pipeline(load_bundle(tiny_bundle, device="cpu")).detect_modality(image)
    assert seen == [(512, looked_at)]
