"""Official SAM, GroundingDINO and open_clip in a bundle: the same answers as their own code, and the same pipeline."""

from __future__ import annotations

import json
import shutil
import socket
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_claps.errors import BundleError
from napari_claps.inference.pipeline import Pipeline
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.bundles.manifest import read_manifest
from napari_claps.models.networks.detector_import import NestedTensor
from napari_claps.models.networks.dino_config import DinoConfig
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.official_clip import OpenClip, ViewFeatures
from napari_claps.models.networks.official_dino import OfficialDetector
from napari_claps.models.networks.official_sam import OfficialSam, SamConfig
from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage
from tests.official_checkpoints import CLIP_CONFIG, official_dino, write_clip_folder


@pytest.fixture(scope="module")
def bundle(official_bundle: Path) -> Bundle:
    return load_bundle(official_bundle, device="cpu")


@pytest.fixture(scope="module")
def views() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture()
def image() -> RetinalImage:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    return RetinalImage(pixels, rgb=True, modality=Modality.CFP, source="photo.png")


def nowhere(*_: object, **__: object) -> None:
    raise AssertionError("a connection was opened")


@pytest.mark.parametrize(("name", "title", "blocks"), [
    ("vit_b", "ViT-B", (2, 5, 8, 11)), ("vit_l", "ViT-L", (5, 11, 17, 23)), ("vit_h", "ViT-H", (7, 15, 23, 31))])
def test_sam_sizes_are_recognised_by_the_shapes_of_the_real_names(name: str, title: str, blocks: tuple) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        official = sam_model_registry[name]()
        config = SamConfig.from_weights(official.state_dict())
        ours = OfficialSam(config)
    assert config.name == title and config.global_blocks == blocks
    assert (config.image_size, config.window, config.dim, config.masks) == (1024, 14, 256, 3)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in official.state_dict().items()}


@pytest.mark.parametrize(("backbone", "title"), [("swin_T_224_1k", "Swin-T"), ("swin_B_384_22k", "Swin-B")])
def test_groundingdino_sizes_are_recognised_by_the_shapes_of_the_real_names(
        backbone: str, title: str, official_sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import groundingdino.models.GroundingDINO.groundingdino as library
    from groundingdino.util.slconfig import SLConfig

    settings = SLConfig.fromfile(str(Path(library.__file__).parents[2] / "config" / "GroundingDINO_SwinT_OGC.py"))
    settings.backbone, settings.text_encoder_type = backbone, str(official_sources["text"])
    linspace = torch.linspace  # its values are read while the model is built, which "meta" has none of
    monkeypatch.setattr(torch, "linspace", lambda *a, **k: linspace(*a, **{**k, "device": "cpu"}))
    from transformers import AutoTokenizer, BertConfig, BertModel

    from napari_claps.models.networks.detector_text import ready_text_encoder

    with torch.device("meta"):
        text = str(official_sources["text"])
        with ready_text_encoder(AutoTokenizer.from_pretrained(text), BertModel(BertConfig.from_pretrained(text))):
            official = library.build_groundingdino(settings)
        config = DinoConfig.from_weights(official.state_dict())
        ours = OfficialDetector(config, text)
    assert config.name == title and config.window == (12 if "384" in backbone else 7)
    assert config == DinoConfig(width=config.width, depths=config.depths, heads=config.heads, window=config.window)
    assert {k: v.shape for k, v in ours.weights().items()} == {k: p.shape for k, p in official.named_parameters()}


def test_sam_gives_the_masks_of_its_own_predictor(bundle: Bundle, views: torch.Tensor) -> None:
    from segment_anything import SamPredictor

    sam = bundle.segmenter
    features = bundle.encode(views)
    with torch.inference_mode():
        maps = sam.decode_pixels(features)
        boxes = torch.tensor([[10.0, 8, 60, 40], [0, 0, 96, 64], [30, 20, 50, 60]])
        found = sam.predict_masks(maps, MaskPrompts(view=torch.tensor([1, 0, 1]), boxes=boxes))
        predictor = SamPredictor(sam)
        image = F.interpolate(views[1:], (43, 64), mode="bilinear", antialias=True) * 255
        predictor.set_torch_image(image, (64, 96))
        corners = predictor.transform.apply_boxes_torch(boxes[[0, 2]], (64, 96))
        _, quality, low = predictor.predict_torch(None, None, corners, multimask_output=False)
        expected = sam.postprocess_masks(low, (43, 64), (32, 48))[:, 0]
        assert torch.allclose(found.logits[[0, 2]], expected, atol=1e-3)
        assert torch.allclose(found.iou[[0, 2]], quality[:, 0], atol=1e-4)
        # A single point is ambiguous: the best of three masks.
        point = torch.tensor([[[40.0, 30.0]]])
        by_point = sam.predict_masks(maps, MaskPrompts(view=torch.tensor([1]), points=point,
                                                       point_labels=torch.ones(1, 1)))
        inner = predictor.transform.apply_coords_torch(point, (64, 96))
        _, quality, low = predictor.predict_torch(inner, torch.ones(1, 1), multimask_output=True)
        best = int(quality[0].argmax())
        assert torch.allclose(by_point.logits, sam.postprocess_masks(low, (43, 64), (32, 48))[:, best], atol=1e-3)
        nothing = sam.predict_masks(maps, MaskPrompts(view=torch.tensor([0]), boxes=torch.full((1, 4), float("nan"))))
        assert (nothing.logits < 0).all() and nothing.iou.item() == 0


def test_groundingdino_gives_the_boxes_of_its_own_code(bundle: Bundle, official_sources: dict[str, Path],
                                                       views: torch.Tensor) -> None:
    official = official_dino(official_sources["text"])
    text = bundle.detector_text(("Optic disc", "a hard exudate"))
    assert text.captions == ("optic disc . a hard exudate .",)
    with torch.inference_mode():
        found = bundle.detector.find_boxes(bundle.encode(views), text, threshold=0.0)
        image = F.interpolate(views, (64, 96), mode="bilinear", antialias=True)
        image = (image - bundle.detector.mean) / bundle.detector.std
        said = official(NestedTensor(image, torch.zeros(2, 64, 96, dtype=torch.bool)), captions=list(text.captions) * 2)
    scores = said["pred_logits"].sigmoid()[..., :text.members[0].shape[1]]
    for view in range(2):
        for index, members in enumerate(text.members[0]):
            best = scores[view][:, members].amax()
            mine = found[view].scores[found[view].text == index]
            assert mine.max().item() == pytest.approx(best.item(), abs=1e-5)
    centre = said["pred_boxes"][0, scores[0][:, text.members[0][0]].amax(1).argmax()] * torch.tensor([96, 64, 96, 64])
    first = found[0].boxes[found[0].text == 0][0]
    assert torch.allclose((first[:2] + first[2:]) / 2, centre[:2], atol=16)  # corners are cut at the border
    assert (found[0].scores.diff() <= 0).all()


def test_swin_runs_once_though_texts_fill_several_captions(bundle: Bundle, views: torch.Tensor) -> None:
    detector = bundle.detector
    texts = tuple(f"word {'abc ' * 20} {i}" for i in range(9))
    captions = detector.encode_text(texts)
    assert len(captions.captions) > 1 and sum(len(m) for m in captions.members) == 9
    lengths = [m.shape[1] for m in captions.members]
    assert max(lengths) <= 256
    runs = []
    handle = detector.model.backbone[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.inference_mode():
        found = detector.find_boxes(bundle.encode(views), captions, threshold=0.0)
    handle.remove()
    assert len(runs) == 1 and set(found[0].text.tolist()) == set(range(9)) and len(found[0].presence) == 9


def test_thresholds_are_applied_as_groundingdino_does(bundle: Bundle, views: torch.Tensor,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """A box needs a token of at least the box threshold, and belongs to the texts above the text threshold."""
    detector, text = bundle.detector, bundle.detector_text(("optic disc", "drusen"))
    outputs = []
    handle = detector.model.register_forward_hook(lambda m, i, o: outputs.append(o["pred_logits"].sigmoid()))
    with torch.inference_mode():
        detector.find_boxes(bundle.encode(views), text, threshold=0.0)
        handle.remove()
        scores = torch.stack([outputs[0][0][:, m.nonzero()[:, 0]].amax(1) for m in text.members[0]], 1)
        lowest, own = scores.amax(1).median().item(), scores.min(1).values.median().item()
        monkeypatch.setattr(detector, "config", replace(detector.config, text_threshold=own, overlap=1.0))
        found = detector.find_boxes(bundle.encode(views), text, threshold=lowest)
        none = detector.find_boxes(bundle.encode(views), text, threshold=[0.0, 1.1])
    expected = (scores.amax(1, keepdim=True) >= lowest) & (scores >= own)
    assert 0 < expected.sum() < expected.numel()
    assert sorted(found[0].scores.tolist()) == pytest.approx(sorted(scores[expected].tolist()))
    assert set(none[0].text.tolist()) == {0}


def test_open_clip_embeds_as_its_own_code(bundle: Bundle, official_sources: dict[str, Path],
                                          views: torch.Tensor) -> None:
    import open_clip

    name = f"local-dir:{official_sources['clip']}"
    model, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    mean, std = (torch.tensor(CLIP_CONFIG["preprocess_cfg"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        image = F.interpolate(views, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        expected = model.encode_image((image - mean) / std, normalize=True)
        assert torch.allclose(bundle.encode(views).embedding, expected, atol=1e-5)
        words = model.encode_text(tokenizer(["an OCT B-scan"]), normalize=True)
        assert torch.allclose(bundle.clip_text(("an OCT B-scan",)), words, atol=1e-5)


def test_one_image_end_to_end_without_network(official_bundle: Path, image: RetinalImage,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", nowhere)
    pipeline = Pipeline(load_bundle(official_bundle, device="cpu"), Settings())
    runs = []
    for part in (pipeline.bundle.segmenter.image_encoder, pipeline.bundle.clip.model.visual,
                 pipeline.bundle.detector.model.backbone[0]):
        part.register_forward_hook(lambda module, *_: runs.append(type(module).__name__))
    bscan = RetinalImage(image.data[..., 0], modality=Modality.OCT)
    result = next(iter(pipeline.run(bscan, ["drusen", "retina", "two words"])))
    assert [p.text for p in result.prompts] == ["drusen", "retina", "two words"]  # no modality signature
    assert sorted(runs) == ["ImageEncoderViT", "SwinTransformer"]  # once each; nobody asked for the CLIP
    assert result.boxes and set(result.masks) == {"drusen", "retina", "two words"}
    assert all(m.shape == (64, 96) for m in result.masks.values())
    guess = pipeline.detect_modality(RetinalImage(image.data, rgb=True))
    assert guess.decided_by == "detected" and sum(guess.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert runs.count("VisionTransformer") == 1


@pytest.mark.parametrize("method", ["medclip-sam", "salip"])
def test_other_methods_run_on_official_networks(official_bundle: Path, tmp_path: Path, image: RetinalImage,
                                                method: str) -> None:
    folder = without_part(official_bundle, tmp_path, "detector")
    pipeline = Pipeline(load_bundle(folder, device="cpu"), Settings(method=method))
    encoded = []
    pipeline.bundle.segmenter.image_encoder.register_forward_hook(lambda *_: encoded.append(1))
    result = next(iter(pipeline.run(image, ["optic_disc"])))
    assert result.masks["optic_disc"].shape == (64, 96) and len(encoded) == 1
    assert all(0 <= b.score <= 1 and b.label == "optic_disc" for b in result.boxes)


def test_no_box_is_an_honest_absent(official_bundle: Path, tmp_path: Path, image: RetinalImage) -> None:
    folder = changed(official_bundle, tmp_path, "box_threshold = 0.0", "box_threshold = 1.1")
    result = next(iter(Pipeline(load_bundle(folder, device="cpu")).run(image, ["optic_disc"])))
    assert not result.boxes and not result.masks["optic_disc"].any() and result.presence["optic_disc"] == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(official_bundle: Path, tmp_path: Path, image: RetinalImage, dtype: str) -> None:
    folder = changed(official_bundle, tmp_path, 'dtype = "float32"', f'dtype = "{dtype}"')
    half, full = (load_bundle(f, device="cpu") for f in (folder, official_bundle))
    seen = []
    half.segmenter.image_encoder.blocks[0].mlp.lin1.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with torch.inference_mode():
        views = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
        with half.precision():
            maps = half.segmenter.decode_pixels(half.encode(views))
        exact = full.segmenter.decode_pixels(full.encode(views))
    assert seen == [getattr(torch, dtype)] and maps.embedding.dtype is torch.float32
    assert (maps.embedding - exact.embedding).abs().mean() < 0.05 * exact.embedding.abs().mean()
    places = []
    half.segmenter.prompt_encoder.register_forward_hook(lambda m, i, o: places.append(o[0]))
    prompts = MaskPrompts(view=torch.zeros(1, dtype=torch.long), boxes=torch.tensor([[10.3, 8.1, 41.7, 30.9]]))
    with torch.inference_mode():
        for context in (half.precision(), full.precision()):
            with context:
                half.segmenter.predict_masks(maps, prompts)
    assert torch.equal(*places), "half precision does not move a box"
    result = next(iter(Pipeline(half).run(image, ["optic_disc"])))
    assert result.masks["optic_disc"].any()


def test_values_that_are_no_numbers_are_an_error_not_an_absence(official_bundle: Path, image: RetinalImage) -> None:
    for part in ("segmenter", "detector"):
        bundle = load_bundle(official_bundle, device="cpu")
        with torch.no_grad():
            next(getattr(bundle, part).parameters()).fill_(float("nan"))
        with pytest.raises(BundleError, match="no numbers"):
            list(Pipeline(bundle).run(image, ["optic_disc"]))


def test_a_view_is_let_go_also_after_a_failure(official_bundle: Path, image: RetinalImage) -> None:
    bundle = load_bundle(official_bundle, device="cpu")
    with torch.no_grad():
        next(bundle.detector.parameters()).fill_(float("nan"))
    with pytest.raises(BundleError, match="no numbers"):
        list(Pipeline(bundle).run(image, ["optic_disc"]))
    assert bundle.detector.model.backbone._kept is None


def test_values_that_are_no_numbers_in_our_own_networks(tiny_bundle: Path, image: RetinalImage) -> None:
    bundle = load_bundle(tiny_bundle, device="cpu")
    with torch.no_grad():
        next(bundle.clip.model.visual.parameters()).fill_(float("nan"))
    with pytest.raises(BundleError, match=r"bundle tiny gave.*NaN.*claps models verify"):
        list(Pipeline(bundle).run(image, ["optic_disc"]))


@pytest.mark.parametrize(("without", "method", "message"), [
    ("detector", "claps",
     r"--method claps: no detector \(GroundingDINO\). What works: naming the modality, medclip-sam, salip"),
    ("clip", "salip", r"--method salip: no CLIP. What works: claps. use --method claps"),
    ("segmenter", "claps", r"no mask head \(SAM\). What works: naming the modality"),
])
def test_missing_part_says_what_is_missing_and_what_works(official_bundle: Path, tmp_path: Path, without: str,
                                                          method: str, message: str) -> None:
    folder = without_part(official_bundle, tmp_path, without)
    with pytest.raises(BundleError, match=message):
        Pipeline(load_bundle(folder, device="cpu"), Settings(method=method))


def test_without_clip_the_modality_must_be_told(official_bundle: Path, tmp_path: Path, image: RetinalImage) -> None:
    pipeline = Pipeline(load_bundle(without_part(official_bundle, tmp_path, "clip"), device="cpu"))
    with pytest.raises(BundleError, match=r"naming the modality: no CLIP.*--modality"):
        pipeline.detect_modality(RetinalImage(image.data, rgb=True))
    assert next(iter(pipeline.run(image, ["optic_disc"]))).boxes  # the file says that it is a fundus photograph


def test_clip_without_text_tower_says_so(tmp_path: Path, views: torch.Tensor) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_clip_folder(tmp_path / "clip")
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({k: v for k, v in weights.items() if k.startswith("visual.")}, folder / "open_clip_model.safetensors")
    clip = OpenClip(folder, has_text=False).eval()
    with torch.inference_mode():
        assert clip.encode_image(views).embedding.shape == (2, 16)
        with pytest.raises(BundleError, match="no text tower"):
            clip.encode_text(["optic disc"])
    bundle = Bundle(Namespace(name="eyes", dtype="float32"), "cpu", clip, None, None)
    with pytest.raises(BundleError, match="CLIP has no text tower. Use --method claps, or import"):
        bundle.clip_text(("optic disc",))


def test_no_weights_are_fetched_for_the_trunk_of_an_image_tower(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    vision = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    folder = write_clip_folder(tmp_path / "clip", {"model_cfg": {**CLIP_CONFIG["model_cfg"], "vision_cfg": vision}})
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_pretrained"] = True  # as its training was started
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    create, asked = timm.create_model, []
    monkeypatch.setattr(timm, "create_model", lambda name, **k: (asked.append(k["pretrained"]), create(name, **k))[1])
    OpenClip(folder, has_text=False)
    assert asked == [False]


def test_text_tower_of_hugging_face_stays_in_its_folder(official_sources: dict[str, Path], tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", nowhere)
    text = official_sources["text"]
    config = {"model_cfg": {**CLIP_CONFIG["model_cfg"], "custom_text": True, "text_cfg": {
        "hf_model_name": str(text), "hf_tokenizer_name": str(text), "hf_model_pretrained": False,
        "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": 24}}}
    folder = write_clip_folder(tmp_path / "clip", config)
    for file in text.iterdir():
        shutil.copy(file, folder)
    config["model_cfg"]["text_cfg"].update(hf_model_name="a-name/in-the-hub", hf_tokenizer_name="a-name/in-the-hub")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.inference_mode():
        vectors = OpenClip(folder).eval().encode_text(["optic disc", "an OCT B-scan"])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5) and not torch.equal(vectors[0], vectors[1])


def test_views_without_clip_have_no_embedding(views: torch.Tensor) -> None:
    features = ViewFeatures(views, None)
    assert features.image is views and features.levels == ()
    with pytest.raises(BundleError, match="no CLIP"):
        _ = features.embedding


def changed(folder: Path, tmp_path: Path, old: str, new: str) -> Path:
    """A copy of a bundle with another text in its description."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    text = (copy / "bundle.toml").read_text()
    assert old in text
    (copy / "bundle.toml").write_text(text.replace(old, new))
    read_manifest(copy)
    return copy


def without_part(folder: Path, tmp_path: Path, part: str) -> Path:
    """A copy of a bundle that lacks a part."""
    return changed(folder, tmp_path, f"[architecture.{part}]", f"[other.{part}]")
