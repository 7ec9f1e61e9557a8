"""The three methods are one pipeline: the same contract, and masks that come from the boxes where a method says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_claps.errors import BundleError, InputError, PromptError
from napari_claps.inference.pipeline import Pipeline
from napari_claps.methods import METHODS, make_prompter
from napari_claps.methods.base import ViewBox
from napari_claps.methods.salip.automatic_masks import AutomaticMask
from napari_claps.methods.salip.prompter import SalipOptions, SalipPrompter
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage, SliceResult

TARGETS = ["IRF", "retina"]
LABELS = ["intraretinal_fluid", "retina"]
SHAPE = (32, 96)
EVERYTHING = SalipOptions(points_per_side=4, predicted_iou=1e-6, stability=1e-6, min_area=0.0, max_area=1.0, score=0.0)
"""Settings under which random weights find something."""


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, device="cpu")


def pipeline(bundle: Bundle, method: str) -> Pipeline:
    return Pipeline(bundle, Settings(bundle=str(bundle.manifest.folder), method=method, seed=3))


def bscan() -> RetinalImage:
    data = (np.random.default_rng(0).random(SHAPE) * 255).astype(np.uint8)
    return RetinalImage(data, modality=Modality.OCT, source="bscan.tif")


class FixedPrompter:
    """Finds the same boxes in every view, whatever is asked for."""

    text_weight = 0.0

    def __init__(self, *boxes: ViewBox) -> None:
        self.boxes = list(boxes)

    def find(self, features, queries, view_size) -> list[list[ViewBox]]:
        return [self.boxes for _ in features.views]


@pytest.fixture(scope="module", params=METHODS)
def twice(request: pytest.FixtureRequest, bundle: Bundle) -> tuple[SliceResult, SliceResult]:
    """The same B-scan, segmented by two pipelines of one method."""
    first, second = (next(pipeline(bundle, request.param).run(bscan(), TARGETS)) for _ in range(2))
    return first, second


def test_every_method_keeps_the_contract(twice: tuple[SliceResult, SliceResult]) -> None:
    result = twice[0]
    height, width = SHAPE
    assert list(result.masks) == LABELS and set(result.presence) == set(LABELS)
    assert all(m.shape == SHAPE and m.dtype == np.uint16 for m in result.masks.values())
    assert all(0 <= p <= 1 for p in result.presence.values())
    for box in result.boxes:
        assert 0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width and 0 <= box.score <= 1
    for label, mask in result.masks.items():
        assert {b.instance for b in result.boxes if b.label == label} == set(np.unique(mask)) - {0}


def test_every_method_gives_the_same_again(twice: tuple[SliceResult, SliceResult]) -> None:
    first, second = twice
    for label in LABELS:
        np.testing.assert_array_equal(first.masks[label], second.masks[label])
    assert first.boxes == second.boxes and first.presence == second.presence


def test_a_layer_is_the_same_whatever_the_method(bundle: Bundle, twice: tuple[SliceResult, SliceResult]) -> None:
    alone = next(pipeline(bundle, "claps").run(bscan(), ["retina"]))
    np.testing.assert_array_equal(twice[0].masks["retina"] > 0, alone.masks["retina"] > 0)


def run_with(bundle: Bundle, prompter: object, targets: list[str]) -> SliceResult:
    made = pipeline(bundle, "salip")
    made._prompter = prompter
    return next(made.run(bscan(), targets))


def test_without_a_box_a_target_is_absent(bundle: Bundle) -> None:
    result = run_with(bundle, FixedPrompter(), ["drusen", "retina"])
    assert not result.masks["drusen"].any() and result.presence["drusen"] == 0
    assert [b for b in result.boxes if b.label == "drusen"] == []
    assert result.presence["retina"] > 0  # the layer is still found by its words


def test_the_mask_is_what_sam_draws_in_the_box_without_words(bundle: Bundle) -> None:
    box = ViewBox((160.0, 32.0, 320.0, 96.0), 0, 0.7)
    sent: list[MaskPrompts] = []
    original = bundle.segmenter.predict_masks
    bundle.segmenter.predict_masks = lambda maps, prompts: sent.append(prompts) or original(maps, prompts)
    try:
        result = run_with(bundle, FixedPrompter(box), ["drusen", "subretinal_fluid"])
    finally:
        del bundle.segmenter.predict_masks
    (prompts,) = sent
    boxed = torch.isfinite(prompts.boxes).all(1)
    assert boxed.sum() == 1 and prompts.boxes[boxed].tolist() == [list(box.corners)]
    assert torch.isnan(prompts.text[boxed]).all() and torch.isfinite(prompts.text[~boxed]).all()
    assert result.presence["drusen"] == pytest.approx(0.7) and result.presence["subretinal_fluid"] == 0
    rows, columns = np.nonzero(result.masks["drusen"])
    scale = 640 / SHAPE[1]  # the working scale of a B-scan this small
    assert len(rows) and rows.min() >= 22 / scale - 1 and rows.max() <= 106 / scale + 1  # within the box, or nearly
    assert columns.min() >= 140 / scale - 1 and columns.max() <= 340 / scale + 1
    assert not result.masks["subretinal_fluid"].any()


def test_the_same_box_gives_the_same_mask_whatever_the_words(bundle: Bundle) -> None:
    box = ViewBox((160.0, 32.0, 320.0, 96.0), 0, 0.7)
    results = [run_with(bundle, FixedPrompter(box), [t]) for t in ("drusen", "SRF", "grey blob")]
    masks = [next(iter(r.masks.values())) > 0 for r in results]
    assert (masks[0] == masks[1]).all() and (masks[0] == masks[2]).all()


def test_salip_finds_something_and_says_how_sure_it_is(bundle: Bundle) -> None:
    options = dict.fromkeys(Modality, EVERYTHING)
    result = run_with(bundle, SalipPrompter(bundle, options), ["drusen", "subretinal_fluid"])
    assert 0 < result.presence["drusen"] < 1 and 0 < result.presence["subretinal_fluid"] < 1
    nothing = {m: replace(EVERYTHING, score=1.0) for m in Modality}
    result = run_with(bundle, SalipPrompter(bundle, nothing), ["drusen", "subretinal_fluid"])
    assert not result.boxes and not any(m.any() for m in result.masks.values())


def test_unknown_methods_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="Unknown method 'sam'. Known are: claps, medclip-sam, salip"):
        Settings(method="sam")
    with pytest.raises(InputError, match="Unknown method 'sam'. Known are: claps, medclip-sam, salip"):
        make_prompter("sam", bundle)


# Bad input

CLIP_METHODS = ("medclip-sam", "salip")


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_a_clip_without_text_tower_is_refused_with_the_way_out(bundle: Bundle, method: str) -> None:
    blind = replace(bundle, clip=SimpleNamespace(has_text=False))
    with pytest.raises(BundleError, match=rf"--method {method}: the CLIP has no text tower. .*use --method claps"):
        make_prompter(method, blind)


@pytest.mark.parametrize(("method", "part"), [("medclip-sam", "clip"), ("salip", "clip"), ("salip", "segmenter")])
def test_official_networks_that_give_no_numbers_are_an_error(
        official_bundle: Path, method: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = load_bundle(official_bundle, device="cpu")
    with torch.no_grad():
        for parameter in (broken.clip.model.visual if part == "clip" else broken.segmenter.image_encoder).parameters():
            parameter.fill_(float("nan"))
    mask = AutomaticMask(np.ones((8, 8), bool), (4, 4, 12, 12), 0.02, 1.0, 1.0)  # SAM's weights are random
    monkeypatch.setattr("napari_claps.methods.salip.prompter.propose_masks", lambda *_, **__: [mask])
    with pytest.raises(BundleError, match="no numbers"):
        next(pipeline(broken, method).run(bscan(), ["drusen"]))


@pytest.mark.parametrize("method", CLIP_METHODS)
@pytest.mark.parametrize(("text", "says"), [("黄斑裂孔", "cannot read"), ("?!...", "no letters"), ("", "is empty"),
                                            ("word " * 99, "characters")])
def test_unreadable_texts_are_refused_before_the_run(bundle: Bundle, method: str, text: str, says: str) -> None:
    with pytest.raises(PromptError, match=says):
        pipeline(bundle, method).run(bscan(), [text])


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_any_readable_text_gives_an_answer(bundle: Bundle, method: str) -> None:
    long = " ".join(["grey"] * 39)  # nearly the 200 characters that are allowed
    result = next(pipeline(bundle, method).run(bscan(), [long, "xqz vrrk"]))
    assert set(result.presence) == {long, "xqz vrrk"} and all(0 <= p <= 1 for p in result.presence.values())


def test_an_even_image_gives_an_answer(bundle: Bundle) -> None:
    """Features without any variation have no most salient place."""
    black = RetinalImage(np.zeros(SHAPE, np.uint8), modality=Modality.OCT, source="black.tif")
    for method in CLIP_METHODS:
        result = next(pipeline(bundle, method).run(black, ["drusen"]))
        assert 0 <= result.presence["drusen"] <= 1
