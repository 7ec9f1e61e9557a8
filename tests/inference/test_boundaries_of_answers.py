"""The constants that decide what a pipeline answers, seen from both sides, with networks of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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


def pixels_found(bundle: Path, monkeypatch: pytest.MonkeyPatch, seen: float, **pair: float) -> int:
    """Size of the mask where the networks see 20 pixels of 80 x 128, which they see 5 times as large."""
    probability = np.zeros((1, 80, 128), np.float32)
    probability[0, 15:20, 15:19] = 0.9
    result = ScaleResult(probability, np.array([seen]), [[]], {})
    monkeypatch.setattr(single_scale, "segment_at_scale", lambda *question, **more: [result])
    shown = load_bundle(bundle, device="cpu")
    pairs = (Pair(Modality.OCT, "drusen", threshold=0.5, **pair),)
    pipeline = Pipeline(replace(shown, manifest=replace(shown.manifest, pairs=pairs)))
    image = RetinalImage(np.zeros((80, 128), np.uint8), modality=Modality.OCT)
    return np.count_nonzero(next(iter(pipeline.run(image, ["drusen"]))).masks["drusen"])


@pytest.mark.parametrize(("presence", "pixels"), [(0.5, 20), (0.499, 0)])
def test_a_target_is_present_from_its_presence_on(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, presence: float,
                                                  pixels: int) -> None:
    assert pixels_found(tiny_bundle, monkeypatch, presence, presence=0.5, min_area=0) == pixels


@pytest.mark.parametrize(("min_area", "pixels"), [(495, 20), (505, 0)])
def test_the_smallest_area_is_that_of_the_working_scale(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch,
                                                        min_area: float, pixels: int) -> None:
    """20 pixels of the slice are 500 of the scaled one."""
    assert pixels_found(tiny_bundle, monkeypatch, 1.0, presence=0.0, min_area=min_area) == pixels


@pytest.mark.usefixtures("small_views")
@pytest.mark.parametrize(("given", "asked"), [(47, 47), (48, 48), (50, 48)])
def test_the_best_48_boxes_of_a_view_are_asked_for_masks(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch,
                                                         given: int, asked: int) -> None:
    boxes = [ViewBox((4.0, 4.0, 20.0 + k / 10, 30.0), 0, 1 - k / 100) for k in range(given)]
    seen = []

    def spy(*question, **more):
        seen.extend([box[4] for box in part.boxes] for part in question if isinstance(part, Scores))
        return decide(*question, **more)

    monkeypatch.setattr(ClapsPrompter, "find", lambda self, *question: [boxes])
    monkeypatch.setattr(pipeline_module, "decide", spy)
    image = RetinalImage(np.random.default_rng(0).integers(0, 255, (40, 64), np.uint8), modality=Modality.OCT)
    next(iter(Pipeline.from_settings(Settings(bundle=str(tiny_bundle), device="cpu")).run(image, ["drusen"])))
    assert seen == [[box.score for box in boxes[:asked]]]
