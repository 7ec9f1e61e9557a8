"""The mask head: prompts of all kinds in one batch, views of any size, and weights that travel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.region_weights import RegionWeights
from napari_claps.models.networks.segmenter import RetinalSam


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, device="cpu")


@pytest.fixture(scope="module")
def views() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_one_pass_gives_all_levels(bundle: Bundle, views: torch.Tensor) -> None:
    features = bundle.clip.encode_image(views)
    assert [tuple(f.shape[-2:]) for f in features.levels] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert torch.allclose(features.embedding.norm(dim=1), torch.ones(2), atol=1e-5)
    same = bundle.clip.model.encode_image((views - bundle.clip.mean) / bundle.clip.std, normalize=True)
    assert torch.allclose(features.embedding, same, atol=1e-5)  # open_clip's own path agrees


def test_prompts_of_all_kinds_share_a_batch(bundle: Bundle, views: torch.Tensor) -> None:
    maps = bundle.segmenter.decode_pixels(bundle.clip.encode_image(views), "cfp")
    text = bundle.clip_text(("retinal vessels in a colour fundus photograph",))
    nan = float("nan")
    prompts = MaskPrompts(
        view=torch.tensor([0, 1, 1]), text=torch.cat([text, torch.full_like(text, nan), text]),
        boxes=torch.tensor([[nan] * 4, [10.0, 8.0, 40.0, 30.0], [nan] * 4]),
        points=torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[20.0, 12.0]]]),
        point_labels=torch.tensor([[-1.0], [-1.0], [1.0]]),
    )
    together = bundle.segmenter.predict_masks(maps, prompts)
    assert together.logits.shape == (3, 32, 48) and torch.isfinite(together.logits).all()
    alone = bundle.segmenter.predict_masks(maps, MaskPrompts(
        view=prompts.view[:1], text=prompts.text[:1], boxes=prompts.boxes[:1], points=prompts.points[:1],
        point_labels=prompts.point_labels[:1]))
    assert torch.allclose(together.logits[:1], alone.logits, atol=1e-4)  # prompts do not see each other


def test_each_text_has_weights_of_its_own(bundle: Bundle, views: torch.Tensor) -> None:
    """They reach the mask without the transformer; all prompts without a text share theirs."""
    encoder = bundle.segmenter.prompt_encoder
    texts = bundle.clip_text(("retinal arteries in a colour fundus photograph",
                              "retinal veins in a colour fundus photograph"))
    nothing = torch.full_like(texts[:1], float("nan"))
    maps = bundle.segmenter.decode_pixels(bundle.clip.encode_image(views[:1]), "cfp")
    weights = encoder.classify(MaskPrompts(view=torch.zeros(3, dtype=torch.long), text=torch.cat([texts, nothing])),
                               maps.pixels)
    assert weights.shape == (3, 9) and not torch.allclose(weights[0], weights[1])
    wordless = encoder.classify(MaskPrompts(view=torch.zeros(1, dtype=torch.long)), maps.pixels)
    assert torch.equal(wordless[0], encoder.no_text_weights) and torch.equal(weights[2], encoder.no_text_weights)
    prompts = MaskPrompts(view=torch.zeros(2, dtype=torch.long), text=texts)
    with torch.inference_mode():
        found = bundle.segmenter.predict_masks(maps, prompts).logits
        plain = RetinalSam(bundle.clip, replace(bundle.segmenter.config, text_weights=False))
        weights_without = bundle.segmenter.head_state_dict()
        for name in ("pixel_weights.weight", "pixel_weights.bias", "no_text_weights"):
            del weights_without[f"prompt_encoder.{name}"]
        plain.load_head_state_dict(weights_without)
        without = plain.predict_masks(maps, prompts).logits
    added = torch.einsum("pc,chw->phw", weights[:2, :-1], maps.pixels[0]) + weights[:2, -1, None, None]
    assert torch.allclose(found, without + added, atol=1e-4)


def test_another_box_changes_the_mask(bundle: Bundle, views: torch.Tensor) -> None:
    maps = bundle.segmenter.decode_pixels(bundle.clip.encode_image(views[:1]), "cfp")
    masks = [bundle.segmenter.predict_masks(maps, MaskPrompts(view=torch.zeros(1, dtype=torch.long),
                                                              boxes=torch.tensor([box]))).logits
             for box in ([0.0, 0.0, 20.0, 20.0], [60.0, 30.0, 90.0, 60.0])]
    assert not torch.allclose(masks[0], masks[1])


def test_a_prompt_without_text_learns_from_what_it_encloses(bundle: Bundle, views: torch.Tensor) -> None:
    """Box, point or the whole view; the part begins without effect, and texts never see it."""
    sam = RetinalSam(bundle.clip, replace(bundle.segmenter.config, region_weights=True))
    fresh = {k: v for k, v in sam.head_state_dict().items() if "no_text_regions" in k}
    assert fresh
    sam.load_head_state_dict({**bundle.segmenter.head_state_dict(), **fresh})
    nan = float("nan")
    text = bundle.clip_text(("drusen in an OCT B-scan",))
    prompts = MaskPrompts(
        view=torch.tensor([0, 0, 1]), text=torch.cat([text, torch.full_like(text, nan), torch.full_like(text, nan)]),
        boxes=torch.tensor([[nan] * 4, [10.0, 8.0, 40.0, 30.0], [nan] * 4]),
        points=torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[20.0, 12.0]]]),
        point_labels=torch.tensor([[-1.0], [-1.0], [1.0]]))
    regions = prompts.regions(32, 48)
    np.testing.assert_allclose(regions, [[0, 0, 48, 32], [5, 4, 20, 15], [8, 4, 12, 8]])
    with torch.inference_mode():
        maps = sam.decode_pixels(bundle.clip.encode_image(views), "cfp")
        before = bundle.segmenter.predict_masks(maps, prompts).logits
        assert torch.equal(sam.predict_masks(maps, prompts).logits, before)
        torch.nn.init.normal_(sam.prompt_encoder.no_text_regions.layers.layers[-1].weight)
        after = sam.predict_masks(maps, prompts).logits
        assert torch.equal(after[0], before[0])
        assert not torch.allclose(after[1], before[1]) and not torch.allclose(after[2], before[2])


def test_region_features_are_means_over_the_box() -> None:
    """The middle, the box, and the box with its surroundings, cut off at the border of the view."""
    weights = RegionWeights(1)
    seen = []
    weights.layers.forward = lambda x: seen.append(x)
    pixels = torch.zeros(2, 1, 16, 16)
    pixels[1, 0, 4:8, 4:8] = 1.0
    weights(pixels, torch.tensor([1, 1, 0]), torch.tensor([[4.0, 4.0, 8.0, 8.0], [12.0, 12.0, 16.0, 16.0],
                                                           [4.0, 4.0, 8.0, 8.0]]))
    means = seen[0]
    assert means.shape == (3, 3) and means[0, 0] == 1.0
    assert means[0, 0] >= means[0, 1] > means[0, 2] > 0.2
    assert (means[1:] == 0).all()


def test_a_modality_can_have_a_pixel_decoder_of_its_own(bundle: Bundle, views: torch.Tensor) -> None:
    sam = RetinalSam(bundle.clip, replace(bundle.segmenter.config, own_pixels=("octa",))).eval()
    own = {k: v for k, v in sam.head_state_dict().items() if "own_pixel_decoders.octa." in k}
    assert own
    sam.load_head_state_dict({**bundle.segmenter.head_state_dict(), **own})
    with torch.inference_mode():
        features = bundle.clip.encode_image(views)
        octa, cfp = sam.decode_pixels(features, "octa"), sam.decode_pixels(features, "cfp")
        assert sam.decode_pixels(features, "octa") is octa and sam.decode_pixels(features, "uwf") is cfp  # made once
        common = bundle.segmenter.decode_pixels(bundle.clip.encode_image(views), "octa")
        assert torch.equal(cfp.pixels, common.pixels) and not torch.allclose(octa.pixels, common.pixels)
        mixed = sam.decode_mixed(bundle.clip.encode_image(views), ("octa", "cfp"))
        turned = sam.decode_mixed(bundle.clip.encode_image(views), ("slo", "octa"))
    for maps, first, second in ((mixed, octa, cfp), (turned, cfp, octa)):
        assert torch.allclose(maps.pixels[0], first.pixels[0], atol=1e-5)
        assert torch.allclose(maps.embedding[1], second.embedding[1], atol=1e-5)


def test_a_modality_can_have_early_blocks_of_its_own(bundle: Bundle, views: torch.Tensor) -> None:
    """As copies they give the shared features; changed, they change its masks alone, and not the shared features."""
    sam = RetinalSam(bundle.clip, replace(bundle.segmenter.config, own_pixels=("octa",), own_trunks=("octa",))).eval()
    trunk = sam.image_encoder.own_trunks["octa"].train()
    assert not any(m.training for m in trunk.modules()), "statistics of batch normalisation are kept"
    assert any(k.startswith("image_encoder.own_trunks.octa.conv_stem") for k in sam.head_state_dict())
    with torch.inference_mode():
        features = bundle.clip.encode_image(views)
        for mine, shared in zip(trunk(features, bundle.clip).levels, features.levels, strict=True):
            assert torch.allclose(mine, shared, atol=1e-5)
        octa, cfp = sam.decode_pixels(features, "octa").pixels, sam.decode_pixels(features, "cfp").pixels
        trunk.conv_stem.weight.mul_(1.5)
        again = bundle.clip.encode_image(views)
        assert all(torch.equal(a, b) for a, b in zip(again.levels, features.levels, strict=True))
        assert torch.equal(sam.decode_pixels(again, "cfp").pixels, cfp)
        changed = sam.decode_pixels(again, "octa").pixels
        assert not torch.allclose(changed, octa)
        spared = replace(bundle, segmenter=sam).encode(views, masks_of="octa")
        assert spared.levels == () and torch.equal(sam.decode_pixels(spared, "octa").pixels, changed)
        assert replace(bundle, segmenter=sam).encode(views, masks_of="cfp").levels


def test_bundle_weights_survive_the_file(tiny_bundle: Path, bundle: Bundle, views: torch.Tensor) -> None:
    again = load_bundle(tiny_bundle, device="cpu")
    a, b = (x.segmenter.decode_pixels(x.clip.encode_image(views), "cfp").pixels for x in (bundle, again))
    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_half_precision_does_not_move_the_prompts(bundle: Bundle, views: torch.Tensor,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    predict = bundle.segmenter.mask_decoder.predict
    monkeypatch.setattr(bundle.segmenter.mask_decoder, "predict", lambda maps, position, dense, tokens, view, classes: (
        seen.append((position, tokens, classes)), predict(maps, position, dense, tokens, view, classes))[1])
    prompts = MaskPrompts(view=torch.zeros(1, dtype=torch.long), boxes=torch.tensor([[10.3, 8.1, 41.7, 30.9]]),
                          text=bundle.clip_text(("drusen in an OCT B-scan",)))
    with torch.inference_mode():
        for half in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                maps = bundle.segmenter.decode_pixels(bundle.clip.encode_image(views[:1]), "cfp")
                found = bundle.segmenter.predict_masks(maps, prompts)
    assert maps.embedding.dtype is torch.bfloat16 and torch.isfinite(found.logits).all()
    for exact, coarse in zip(*seen, strict=True):
        assert torch.equal(exact, coarse)
