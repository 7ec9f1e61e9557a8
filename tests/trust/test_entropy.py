"""Entropy keeps its bounds, and the ensemble is what it says: mirrored, reworded, shifted, and put together rightly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_claps.inference import ensemble
from napari_claps.inference.decision import with_uncertainty
from napari_claps.inference.ensemble import segment_ensemble, shifted
from napari_claps.inference.mirroring import mirrorings
from napari_claps.inference.pipeline import Pipeline
from napari_claps.inference.single_scale import ScaleResult, segment_at_scale
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query, ViewBox
from napari_claps.models.bundles.manifest import Pair
from napari_claps.settings import Settings
from napari_claps.trust.entropy import binary_entropy, ensemble_entropy, mutual_information
from napari_claps.types import Box, Modality, RetinalImage
from napari_claps.words.vocabulary import TARGETS, TEMPLATES, class_text, make_prompt

members = arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3), st.just(4)),
                 elements=st.floats(0, 1, width=32))


@given(members)
def test_entropy_is_between_0_and_1_bit_and_disagreement_a_part_of_it(probabilities: np.ndarray) -> None:
    entropy, disagreement = ensemble_entropy(probabilities), mutual_information(probabilities)
    assert entropy.shape == (3, 4) and entropy.dtype == np.float32
    assert entropy.min() >= 0 and entropy.max() <= 1
    assert disagreement.min() >= 0 and (disagreement <= entropy + 1e-6).all()


def test_known_entropies() -> None:
    np.testing.assert_allclose(binary_entropy(np.array([0, 1, 0.5, 0.25])), [0, 0, 1, 0.811278], atol=1e-5)
    sure_but_split = np.array([0.0, 1.0])[:, None, None] * np.ones((2, 2, 2))
    np.testing.assert_allclose(ensemble_entropy(sure_but_split), 1)
    np.testing.assert_allclose(mutual_information(sure_but_split), 1)
    np.testing.assert_allclose(mutual_information(np.full((4, 2, 2), 0.5)), 0)


def test_an_object_gets_the_mean_entropy_of_its_own_pixels() -> None:
    mask = np.array([[1, 1, 0], [0, 2, 2]], np.uint16)
    entropy = np.array([[0.2, 0.4, 1], [1, 0.6, 0.8]], np.float32)
    boxes = tuple(Box(0, 0, 1, 1, "drusen", 0.9, instance=i) for i in (2, 1))
    assert [round(b.uncertainty, 5) for b in with_uncertainty(boxes, mask, entropy)] == [0.7, 0.3]


def test_a_bscan_is_not_turned_upside_down() -> None:
    assert all(0 not in axes for axes in mirrorings(Modality.OCT)) and len(mirrorings(Modality.OCT)) == 2
    assert len(mirrorings(Modality.CFP)) == 4 and mirrorings(Modality.CFP)[0] == ()


@given(st.floats(0, 90), st.floats(0, 50), st.floats(1, 60), st.floats(1, 40), st.integers(0, 99))
def test_shifted_boxes_stay_in_the_view(x: float, y: float, width: float, height: float, seed: int) -> None:
    box = ViewBox((x, y, min(x + width, 100), min(y + height, 60)), 3, 0.7)
    moved = shifted(box, np.random.default_rng(seed), (60, 100))
    x0, y0, x1, y1 = moved.corners
    assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 60 and (moved.prompt, moved.score) == (3, 0.7)


def test_mirrored_answers_are_turned_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With networks that answer with the image itself, the mean is the image."""
    def echo(bundle, prompter, planes, side, queries, *, mirrored=True):
        return [ScaleResult(np.stack([p[..., 0]] * len(queries)), np.ones(len(queries)), [[] for _ in queries])
                for p in planes]

    monkeypatch.setattr(ensemble, "segment_at_scale", echo)
    bundle = SimpleNamespace(takes_text=True, manifest=SimpleNamespace(signature=True, mirrored=()))
    image = np.random.default_rng(0).random((5, 7, 1)).astype(np.float32).repeat(3, axis=2)
    for modality, target in ((Modality.CFP, "optic_disc"), (Modality.CFP, "vessel"), (Modality.OCT, "drusen")):
        query = Query(make_prompt(target, modality), Pair(modality, target, text_weight=0.5))
        prompter = SimpleNamespace(text_weight=None)
        plain, mean = segment_ensemble(bundle, prompter, [image], 32, [query], modality=modality, seed=0, slices=[0])
        np.testing.assert_allclose(mean[0][0], image[..., 0], rtol=1e-5)
        np.testing.assert_array_equal(plain[0].probability[0], image[..., 0])


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.from_settings(Settings(bundle=str(tiny_bundle), device="cpu"))


def test_other_words_change_only_the_texts_share_of_a_mixture(pipeline: Pipeline,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "mirrorings", lambda modality: ((),))
    monkeypatch.setattr(ensemble, "TEMPLATES", TEMPLATES[:3])
    bundle, prompter = pipeline.bundle, make_prompter("claps", pipeline.bundle)
    plane = np.random.default_rng(0).random((40, 64, 3)).astype(np.float32)
    prompt, pair = make_prompt("drusen", Modality.OCT), Pair(Modality.OCT, "drusen", text_weight=0.6, box_threshold=0)

    def ask(text: str, weight: float) -> np.ndarray:
        query = Query(replace(prompt, text=text), replace(pair, text_weight=weight))
        return segment_at_scale(bundle, prompter, [plane], 64, [query])[0].probability[0]

    words = [class_text(TARGETS["drusen"], Modality.OCT, t) for t in TEMPLATES[:3]]
    assert words[0] == prompt.text
    boxes = ask(words[0], 0.0)
    expected = np.mean([0.6 * ask(w, 1.0) + 0.4 * boxes for w in words], axis=0)
    _, mean = segment_ensemble(bundle, prompter, [plane], 64, [Query(prompt, pair)], modality=Modality.OCT,
                               seed=0, slices=[0])
    assert boxes.any()
    np.testing.assert_allclose(mean[0][0], expected, atol=1e-5)


@pytest.mark.usefixtures("small_views")
def test_uncertainty_comes_with_the_result_and_presence_stays(pipeline: Pipeline) -> None:
    data = (np.random.default_rng(0).random((3, 40, 64)) * 255).astype(np.uint8)
    image = RetinalImage(data, modality=Modality.OCT, source="volume.tif")
    plain = list(pipeline.run(image, ["drusen", "retina"]))
    asked = [Pipeline(pipeline.bundle, Settings(uncertainty=True, batch_size=n)) for n in (1, 1, 3)]
    first, again, together = (list(p.run(image, ["drusen", "retina"])) for p in asked)
    for a, b, c, d in zip(plain, first, again, together, strict=True):
        assert not a.uncertainty and a.presence == pytest.approx(b.presence, abs=1e-5)  # more texts, other rounding
        assert list(b.uncertainty) == ["drusen", "retina"]
        for label, entropy in b.uncertainty.items():
            assert entropy.shape == (40, 64) and entropy.dtype == np.float32
            assert entropy.min() >= 0 and entropy.max() <= 1 and entropy.any()
            np.testing.assert_array_equal(entropy, c.uncertainty[label])
            np.testing.assert_allclose(entropy, d.uncertainty[label], atol=1e-3)  # the batch changes the rounding only
        assert all(0 <= box.uncertainty <= 1 for box in b.boxes) and all(box.uncertainty is None for box in a.boxes)


@pytest.mark.usefixtures("small_views")
def test_uncertainty_outside_a_region_is_not_known(pipeline: Pipeline) -> None:
    data = (np.random.default_rng(0).random((40, 64)) * 255).astype(np.uint8)
    uncertain = Pipeline(pipeline.bundle, Settings(uncertainty=True))
    result = next(iter(uncertain.run(RetinalImage(data, modality=Modality.OCT), ["drusen"], region=(4, 10, 36, 50))))
    known = np.isfinite(result.uncertainty["drusen"])
    assert known[4:36, 10:50].all() and known.sum() == 32 * 40


@pytest.mark.usefixtures("small_views")
def test_free_text_and_other_methods_have_an_uncertainty_too(pipeline: Pipeline) -> None:
    data = (np.random.default_rng(0).random((40, 64)) * 255).astype(np.uint8)
    image = RetinalImage(data, modality=Modality.OCT)
    for method, target in (("claps", "dark round cyst"), ("salip", "drusen")):
        uncertain = Pipeline(pipeline.bundle, Settings(uncertainty=True, method=method))
        result = next(iter(uncertain.run(image, [target])))
        assert np.isfinite(result.uncertainty[target]).all()
