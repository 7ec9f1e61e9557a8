"""The medclip-sam method: bottleneck, regions, boxes with scores, on made-up features and on real networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from napari_claps.errors import BundleError, InputError
from napari_claps.inference.medclip_ensemble import run_ensemble
from napari_claps.inference.pipeline import Pipeline
from napari_claps.methods.base import Query
from napari_claps.methods.medclip.late_layer import late_layer
from napari_claps.methods.medclip.m2ib import Bottleneck, divergence, information_map
from napari_claps.methods.medclip.options import MedClipOptions, default_options, make_options
from napari_claps.methods.medclip.prompter import MedClipSamPrompter, upsampled
from napari_claps.methods.medclip.regions import Cut, RegionRule, find_regions
from napari_claps.methods.texts import other_targets, wordings
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage
from napari_claps.words.vocabulary import TEMPLATES, make_prompt

QUICK = MedClipOptions(Bottleneck(steps=3, draws=2), templates=1)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, device="cpu")


@torch.inference_mode()
def encoded(bundle: Bundle, count: int = 1):
    """Features of views with 64 x 96 pixels."""
    return bundle.encode(torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(0)))


def quick(bundle: Bundle, seed: int = 0, **changes) -> MedClipSamPrompter:
    options = dataclasses.replace(QUICK, **changes)
    return MedClipSamPrompter(bundle, dict.fromkeys(Modality, options), seed=seed)


# The bottleneck

def embed_mean(values: torch.Tensor) -> torch.Tensor:
    """A tower whose embedding is the mean over the positions of what is positive."""
    return F.normalize(values.clamp(min=0).flatten(2).mean(2) + 1e-6, dim=-1)


def blob_features() -> torch.Tensor:
    """Channel 0 lights up at one place, channels 1 to 5 vary everywhere."""
    features = torch.rand(6, 7, 9, generator=torch.Generator().manual_seed(1))
    features[0] = 0.01
    features[0, 2, 6] = 8.0
    return features


def test_what_the_text_asks_for_is_most_salient() -> None:
    text = torch.eye(6)[0]
    found = information_map(blob_features(), embed_mean, text, Bottleneck())
    assert found.shape == (7, 9) and found.dtype == torch.float32 and (found >= 0).all()
    assert divmod(int(found.argmax()), 9) == (2, 6)
    assert found[2, 6] > 3 * found.flatten().median()
    other = information_map(blob_features(), embed_mean, torch.eye(6)[3], Bottleneck(beta=0.01))
    assert other[2, 6] / other.max() < found[2, 6] / found.max()  # another text does not rest on the blob


def test_divergence_is_that_of_two_normals() -> None:
    standard = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    logits = torch.linspace(-4, 4, 12).reshape(3, 4)
    mask = logits.sigmoid()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mask * standard, (1 - mask) * 0.3 ** 0.5), normal(torch.zeros(3, 4), torch.full((3, 4), 0.3 ** 0.5)))
    torch.testing.assert_close(divergence(standard, logits, 0.3), expected, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_and_inference_mode_does_not_matter() -> None:
    text = torch.eye(6)[0]
    with torch.inference_mode():
        features = blob_features()
        inside = information_map(features, embed_mean, text, Bottleneck(draws=3), seed=4)
    outside = information_map(blob_features(), embed_mean, text, Bottleneck(draws=3), seed=4)
    assert torch.equal(inside, outside) and not outside.requires_grad
    assert not torch.equal(outside, information_map(blob_features(), embed_mean, text, Bottleneck(draws=3), seed=5))


def test_more_compression_lets_less_through() -> None:
    text = torch.eye(6)[0]
    weak, strong = (information_map(blob_features(), embed_mean, text, Bottleneck(beta=b)).sum() for b in (0.01, 10.0))
    assert strong < weak


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_give_no_region(bad: float) -> None:
    features = blob_features()
    features[2, 1, 1] = bad
    found = information_map(features, embed_mean, torch.eye(6)[0], Bottleneck())
    assert found.isnan().all() and find_regions(found.numpy(), RegionRule()) == []


# Regions

def two_blobs() -> np.ndarray:
    saliency = np.zeros((40, 60))
    saliency[5:15, 10:20] = 6
    saliency[25:30, 40:50] = 10
    return saliency


@pytest.mark.parametrize("rule", [RegionRule(Cut.KMEANS), RegionRule(Cut.THRESHOLD, 0.3)])
def test_the_most_salient_component_comes_first(rule: RegionRule) -> None:
    first, second = find_regions(two_blobs(), rule)
    assert first.box == (25, 40, 30, 50) and second.box == (5, 10, 15, 20)
    assert first.saliency == pytest.approx(1) and second.saliency == pytest.approx(0.6)
    assert find_regions(two_blobs(), dataclasses.replace(rule, components=1))[0].box == first.box


def test_threshold_and_sizes_decide() -> None:
    assert len(find_regions(two_blobs(), RegionRule(Cut.THRESHOLD, 0.8))) == 1
    assert len(find_regions(two_blobs(), RegionRule(min_share=0.03))) == 1
    assert find_regions(two_blobs(), RegionRule(max_share=0.01)) == []


@pytest.mark.parametrize("empty", [np.zeros((8, 8)), np.full((8, 8), 3.0), np.full((8, 8), np.nan), np.zeros((0, 8))])
def test_nothing_salient_is_an_empty_list(empty: np.ndarray) -> None:
    assert find_regions(empty, RegionRule()) == []


@given(seed=st.integers(0, 1000), cut=st.sampled_from(Cut), components=st.integers(1, 4), scale=st.floats(1e-3, 1e6))
def test_regions_of_any_map(seed: int, cut: Cut, components: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    saliency = rng.gamma(0.5, size=(12, 17)) * scale
    regions = find_regions(saliency, RegionRule(cut, components=components, min_share=0.0), rng.random((24, 34, 3)))
    assert len(regions) <= components
    assert [r.saliency for r in regions] == sorted((r.saliency for r in regions), reverse=True)
    for region in regions:
        y0, x0, y1, x1 = region.box
        assert 0 <= y0 < y1 <= 12 and 0 <= x0 < x1 <= 17 and 0 <= region.saliency <= 1
        assert region.mask[y0:y1, x0:x1].sum() == region.mask.sum() > 0


# The layer

@pytest.mark.parametrize("level", [2, 3, 4])
def test_the_rest_of_the_tower_gives_the_embedding(bundle: Bundle, level: int) -> None:
    features = encoded(bundle, 2)
    with torch.inference_mode():
        layer = late_layer(bundle, features, 1, level)
        torch.testing.assert_close(layer.embed(layer.features[None])[0], features.embedding[1], rtol=1e-4, atol=1e-5)
    assert layer.grid == (64 // 2 ** (level + 1), 96 // 2 ** (level + 1))


def open_clip_bundle(vision: dict) -> SimpleNamespace:
    """What `late_layer` reads of a bundle with a CLIP of its own."""
    import open_clip

    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    model = open_clip.CustomTextCLIP(16, {"image_size": 32, **vision}, text).eval().requires_grad_(False)
    return SimpleNamespace(clip=SimpleNamespace(
        model=model, embed=lambda views: F.normalize(model.encode_image(F.interpolate(views, (32, 32))), dim=-1)))


@pytest.mark.parametrize(("vision", "grid"), [
    ({"layers": 4, "width": 32, "head_width": 16, "patch_size": 8}, (4, 4)),
    ({"layers": [1, 1, 1, 1], "width": 8}, (2, 2)),
    ({"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear"}, (2, 2)),
])
def test_towers_of_other_kinds(vision: dict, grid: tuple[int, int]) -> None:
    bundle = open_clip_bundle(vision)
    features = SimpleNamespace(views=torch.rand(2, 3, 48, 64))
    with torch.inference_mode():
        layer = late_layer(bundle, features, 1, 3)
        whole = bundle.clip.embed(features.views[1:])
        torch.testing.assert_close(layer.embed(torch.stack([layer.features] * 2)), whole.expand(2, -1))
        text = F.normalize(torch.randn(16), dim=0)
        found = layer.to_grid(information_map(layer.features, layer.embed, text, QUICK.bottleneck))
    assert layer.grid == grid and found.shape == grid and found.isfinite().all() and found.std() > 0
    assert torch.equal(layer.to_grid(layer.from_grid(found)), found)


def test_a_tower_of_an_unknown_kind_is_refused() -> None:
    bundle = SimpleNamespace(clip=SimpleNamespace(model=SimpleNamespace(visual=torch.nn.Linear(2, 2))))
    with pytest.raises(BundleError, match="Linear.*no blocks.*Choose the method claps or salip"):
        late_layer(bundle, SimpleNamespace(views=torch.rand(1, 3, 32, 32)), 0, 3)


# The prompter

PROMPTS = [make_prompt("optic_disc", Modality.CFP), make_prompt("green moving spots", Modality.CFP)]
PAIRS = [Pair(Modality.CFP, "optic_disc", box_threshold=0.99), Pair(Modality.CFP, "green moving spots")]
QUERIES = [Query(prompt, pair) for prompt, pair in zip(PROMPTS, PAIRS, strict=True)]


def test_boxes_with_scores(bundle: Bundle) -> None:
    features = encoded(bundle, 2)
    found = quick(bundle).find(features, QUERIES, (64, 96))
    assert len(found) == 2 and any(found)
    for boxes in found:
        assert [b.score for b in boxes] == sorted((b.score for b in boxes), reverse=True)
        for box in boxes:
            x0, y0, x1, y1 = box.corners
            assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 64 and 0 <= box.score <= 1 and box.prompt in (0, 1)
    assert quick(bundle).find(features, QUERIES, (64, 96)) == found
    alone = dataclasses.replace(features, views=features.views[1:], levels=tuple(f[1:] for f in features.levels))
    assert quick(bundle).find(alone, QUERIES, (64, 96))[0] == found[1]


def test_a_threshold_on_the_score_makes_absent(bundle: Bundle) -> None:
    features = encoded(bundle)
    assert quick(bundle).find(features, QUERIES, (64, 96))[0]
    assert quick(bundle, score=1.01).find(features, QUERIES, (64, 96)) == [[]]


def test_values_that_are_no_numbers_are_an_error_not_an_absence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch
                                                               ) -> None:
    features = encoded(bundle)
    broken = dataclasses.replace(features, levels=tuple(torch.full_like(f, float("nan")) for f in features.levels))
    with pytest.raises(BundleError, match=r"bundle tiny gave values that are no numbers \(NaN"):
        quick(bundle).find(broken, QUERIES, (64, 96))
    monkeypatch.setattr(bundle.clip, "encode_text", lambda texts: torch.full((len(texts), 16), float("nan")))
    with pytest.raises(BundleError, match="no numbers"):
        quick(bundle).find(features, [Query(make_prompt("never asked before", Modality.CFP), PAIRS[1])], (64, 96))


def test_lesions_may_have_settings_of_their_own(bundle: Bundle) -> None:
    options = make_options({"layer": 3, "components": 1, "score": 0.2, "lesion": {"layer": 4, "components": 9}})
    lesion, disc, free = (make_prompt(t, Modality.CFP) for t in ("microaneurysm", "optic_disc", "a round spot"))
    assert options.of(disc) is options.of(free) is options and options.of(lesion) is options.lesion
    assert (options.lesion.bottleneck.layer, options.lesion.regions.components, options.lesion.score) == (4, 9, 0.2)
    assert QUICK.of(lesion) is QUICK
    prompter = quick(bundle, lesion=dataclasses.replace(QUICK, score=1.01))
    found = prompter.find(encoded(bundle), [Query(disc, PAIRS[0]), Query(lesion, Pair(Modality.CFP, "microaneurysm"))],
                          (64, 96))
    assert {b.prompt for b in found[0]} == {0}


@pytest.fixture
def quick_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults with fewer steps, draws and wordings."""
    monkeypatch.setattr("napari_claps.methods.medclip.prompter.default_options", lambda: dict.fromkeys(Modality, QUICK))


@pytest.mark.usefixtures("quick_options")
def test_the_pipeline_runs_the_method_and_repeats_it(bundle: Bundle, tiny_bundle: Path) -> None:
    image = RetinalImage((np.random.default_rng(0).random((40, 64)) * 255).astype(np.uint8), modality=Modality.OCT)

    pipeline = Pipeline(bundle, Settings(bundle=str(tiny_bundle), method="medclip-sam"))
    first, again = (next(iter(pipeline.run(image, ["drusen", "retina"]))) for _ in range(2))
    assert set(first.masks) == {"drusen", "retina"} and first.masks["drusen"].shape == (40, 64)
    assert first.boxes == again.boxes
    for label in first.masks:
        np.testing.assert_array_equal(first.masks[label], again.masks[label])


def test_the_shipped_bundle_finds_the_disc_and_scores_nonsense_lower() -> None:
    """Half the usual size, one wording: seconds. The saliency alone would give nonsense the same box."""
    from skimage.data import retina

    bundle = load_bundle("claps-tiny", device="cpu")
    with torch.inference_mode():
        view = F.interpolate(torch.from_numpy(retina()).permute(2, 0, 1)[None].float() / 255, (256, 256), mode="area")
        features = bundle.encode(view)
    options = MedClipOptions(templates=1)
    prompter = MedClipSamPrompter(bundle, options={Modality.CFP: options})
    scores = []
    for prompt in (PROMPTS[0], make_prompt("purple elephant dancing in the rain", Modality.CFP)):
        layer = late_layer(bundle, features, 0, 3)
        saliency = upsampled(prompter.saliency(layer, prompt, Modality.CFP), (256, 256))
        assert saliency.shape == (64, 64) and (saliency >= 0).all()
        region = find_regions(saliency.numpy(), options.regions)[0]
        scores.append(prompter.region_scores(layer, [region], prompt, Modality.CFP)[0])
        if prompt.target:
            y0, x0, y1, x1 = region.box
            assert y0 <= 29 < y1 and x0 <= 9 < x1  # the disc is at (0.46, 0.15) of this photograph
    assert scores[0] > scores[1] + 0.2


def test_wordings_and_what_else_there_could_be() -> None:
    disc, free = PROMPTS
    assert len(wordings(disc, Modality.CFP)) == len(TEMPLATES) and wordings(disc, Modality.CFP)[0] == disc.text
    assert len(wordings(disc, Modality.CFP, 2)) == 2 and "nerve head" in wordings(disc, Modality.CFP, 2)[1]
    assert wordings(free, Modality.CFP, 2) == (free.text,)
    bare = dataclasses.replace(disc, text="optic disc")  # as a detector is asked that knows no signatures
    assert wordings(bare, Modality.CFP) == wordings(disc, Modality.CFP)
    own = dataclasses.replace(disc, text="the blind spot")
    assert wordings(own, Modality.CFP, 2) == ("the blind spot",)
    assert disc.text not in other_targets(disc, Modality.CFP)
    assert len(other_targets(free, Modality.CFP)) == len(other_targets(disc, Modality.CFP)) + 1


def test_every_modality_has_options() -> None:
    options = default_options()
    assert set(options) == set(Modality)
    for found in options.values():
        assert 0 <= found.score < 1 and found.templates >= 1 and found.regions.components >= 1
        assert found.bottleneck.steps == 10 and found.bottleneck.draws == 2 and found.bottleneck.rate == 1
    made = make_options({"layer": 4, "cut": "threshold", "threshold": 0.5, "score": 0.2})
    assert made.bottleneck.layer == 4 and made.regions.cut is Cut.THRESHOLD and made.score == 0.2


# The ensemble

@pytest.mark.usefixtures("quick_options")
def test_the_ensemble_of_bundles_mirrorings_and_wordings(bundle: Bundle) -> None:
    plane = np.random.default_rng(0).random((40, 64, 3)).astype(np.float32)
    prompt = make_prompt("drusen", Modality.OCT)
    pair = Pair(Modality.OCT, "drusen")
    maps = run_ensemble([bundle, bundle], plane, 64, prompt, pair, n_wordings=2)
    assert maps.members == 2 * 2 * 2
    assert maps.saliency is not None and maps.saliency_entropy is not None
    for found in (maps.saliency, maps.saliency_entropy, maps.probability, maps.entropy):
        assert found.shape == (40, 64) and found.min() >= 0 and found.max() <= 1
    assert maps.saliency.std() > 0 and maps.entropy.dtype == np.float32
    one = run_ensemble([bundle], plane, 64, prompt, pair, n_wordings=1, mirrored=False)
    assert one.members == 1


def test_no_ensemble_of_nothing(bundle: Bundle) -> None:
    plane = np.zeros((40, 64, 3), np.float32)
    with pytest.raises(InputError, match="no bundle"):
        run_ensemble([], plane, 64, PROMPTS[0], PAIRS[0])
    retina = make_prompt("retina", Modality.OCT)
    with pytest.raises(InputError, match="retina is found by its text alone.*compact target"):
        run_ensemble([bundle], plane, 64, retina, Pair(Modality.OCT, "retina"))
