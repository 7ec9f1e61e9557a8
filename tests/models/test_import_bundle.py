"""Bundles made of the user's own files: what is recognised, what is refused and why, and that nothing half is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_claps.errors import BundleError
from napari_claps.inference.pipeline import Pipeline
from napari_claps.methods import abilities
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.models.bundles.checkpoint_file import read_checkpoint
from napari_claps.models.bundles.import_bundle import import_bundle
from napari_claps.models.bundles.manifest import available_bundles, models_folder, read_manifest
from napari_claps.types import Modality, RetinalImage
from tests.official_checkpoints import CLIP_CONFIG, write_clip_folder, write_sam
from tests.tiny_bundle import TRUNK


@pytest.fixture()
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder."""
    monkeypatch.setenv("CLAPS_MODELS", str(tmp_path / "models"))
    return models_folder()


@pytest.fixture()
def trained(tiny_bundle: Path, tmp_path: Path) -> dict[str, Path]:
    """`final.pt` files as our three stages write them."""
    bundle = load_bundle(tiny_bundle, device="cpu")
    arch = {name: dict(values) for name, values in bundle.manifest.architecture.items()}
    clip, sam, boxes = bundle.clip.state_dict(), bundle.segmenter.head_state_dict(), bundle.detector.head_state_dict()
    states = {
        "clip": {"arch": {"clip": arch["clip"]}, "model": clip},
        "segmenter": {"arch": {"clip": arch["clip"], "segmenter": arch["segmenter"]}, "clip": clip, "segmenter": sam},
        "detector": {"arch": arch, "clip": clip, "detector": boxes},
    }
    paths = {}
    for name, state in states.items():
        paths[name] = tmp_path / name / "final.pt"
        paths[name].parent.mkdir()
        torch.save({**state, "config": {"steps": 3}}, paths[name])
        shutil.copytree(tiny_bundle / "text", tmp_path / name / "text")
    return paths


def test_official_bundle_describes_itself(official_bundle: Path, official_sources: dict[str, Path]) -> None:
    manifest = read_manifest(official_bundle)
    assert {p: a["kind"] for p, a in manifest.architecture.items()} == {
        "segmenter": "sam-vit", "detector": "groundingdino-swin", "clip": "open_clip"}
    assert manifest.modalities == list(Modality) and "optic_disc" in manifest.targets(Modality.CFP)
    assert manifest.pair(Modality.OCT, "optic_cup") is None  # it does not exist there
    assert {p.text_weight for p in manifest.pairs} == {0.0} and all(p.dice is None for p in manifest.pairs)
    free = manifest.free_pair(Modality.OCT, "two words")
    assert (free.modality, free.target, free.text_weight, free.presence) == (Modality.OCT, "two words", 0.0, 0.0)
    assert manifest.licence == "unknown" and not manifest.signature
    assert {s["file"] for s in manifest.training["sources"]} == {"sam.pth", "dino.pth", "open_clip_model.safetensors"}
    assert str(official_sources["segmenter"].parent) not in (official_bundle / "bundle.toml").read_text()
    manifest.verify()


def test_imported_bundle_is_found_by_name(official_sources: dict[str, Path], models: Path) -> None:
    made = import_bundle([official_sources["segmenter"]], "my-sam", licence="Apache-2.0", dtype="bfloat16")
    assert made.folder == models / "my-sam" and made.licence == "Apache-2.0" and made.dtype == "bfloat16"
    assert read_manifest("my-sam").sha256 == made.sha256
    assert [b.name for b in available_bundles()] == ["claps-tiny", "my-sam"]
    with pytest.raises(BundleError, match="already a bundle 'my-sam'.*--overwrite"):
        import_bundle([official_sources["segmenter"]], "my-sam")
    import_bundle([official_sources["segmenter"]], "my-sam", overwrite=True)
    assert read_manifest("my-sam").licence == "unknown"


def test_unreadable_bundle_of_the_user_does_not_hide_the_others(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    (models / "broken").mkdir(parents=True)
    (models / "broken" / "bundle.toml").write_text("name = [")
    assert [b.name for b in available_bundles()] == ["claps-tiny"] and "broken" in caplog.text


@pytest.mark.parametrize("order", [("clip", "segmenter", "detector"), ("detector", "segmenter", "clip")])
def test_checkpoints_of_our_training_give_the_same_masks(trained: dict[str, Path], tiny_bundle: Path, models: Path,
                                                         order: tuple[str, ...]) -> None:
    manifest = import_bundle([trained[name] for name in order], "mine")
    assert manifest.signature and manifest.architecture["clip"] == {"trunk": TRUNK, "embed_dim": 16}
    image = RetinalImage(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), modality=Modality.OCT)
    ours, theirs = (next(iter(Pipeline(load_bundle(f, device="cpu")).run(image, ["retina"])))
                    for f in (manifest.folder, tiny_bundle))
    assert ours.presence["retina"] == pytest.approx(theirs.presence["retina"], abs=1e-5)


def test_training_without_detector_answers_by_text(trained: dict[str, Path], models: Path) -> None:
    manifest = import_bundle([trained["segmenter"]], "no-detector")
    bundle = load_bundle(manifest.folder, device="cpu")
    assert abilities(bundle)["claps"] == ""
    image = RetinalImage(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), modality=Modality.OCT)
    assert "drusen" in next(iter(Pipeline(bundle).run(image, ["drusen"]))).masks


@pytest.mark.parametrize("content", [
    {"arch": "resnet50", "config": {}, "model": {"fc.weight": torch.zeros(1)}},
    {"arch": {"clip": {}}, "config": {}, "clip": {}, "segmenter": {"a": torch.zeros(1)}},
    {"arch": {"clip": {}}, "config": {}, "clip": 3},
])
def test_checkpoints_of_other_trainings_are_not_taken_for_ours(content: dict, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(BundleError, match=r"x\.pt: is of an unknown kind"):
        read_checkpoint(tmp_path / "x.pt")


def test_head_without_its_encoder_is_refused(trained: dict[str, Path], official_sources: dict[str, Path],
                                             models: Path) -> None:
    shutil.rmtree(trained["segmenter"].parent / "text")
    with pytest.raises(BundleError, match="text folder .*text is missing"):
        import_bundle([trained["segmenter"]], "mine")
    with pytest.raises(BundleError, match="second clip"):
        import_bundle([trained["clip"], official_sources["clip"]], "mixed")
    with pytest.raises(BundleError, match="each brings a text encoder"):
        import_bundle([trained["clip"], official_sources["detector"], official_sources["text"]], "mixed")
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.parametrize(("names", "message"), [
    (["detector"], "needs one folder of its text encoder, bert-base-uncased.*claps models get"),
    (["text"], "BERT folder is of use only together with a GroundingDINO"),
    (["segmenter", "segmenter"], "is a second segmenter"),
])
def test_parts_that_do_not_fit(official_sources: dict[str, Path], models: Path, names: list[str], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        import_bundle([official_sources[n] for n in names], "bundle")


def test_bert_of_another_size_is_refused_and_leaves_nothing(official_sources: dict[str, Path], models: Path,
                                                            tmp_path: Path) -> None:
    other = tmp_path / "bert"
    shutil.copytree(official_sources["text"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    with pytest.raises(BundleError, match="do not make a bundle: .*another BERT"):
        import_bundle([official_sources["detector"], other], "bundle")
    assert not list(models.iterdir())


def test_names_that_cannot_be(official_sources: dict[str, Path], models: Path) -> None:
    for name in ("../elsewhere", "a/b", "", ".hidden"):
        with pytest.raises(BundleError, match="cannot be the name of a bundle"):
            import_bundle([official_sources["segmenter"]], name)
    with pytest.raises(BundleError, match="claps-tiny.*came with the package"):
        import_bundle([official_sources["segmenter"]], "claps-tiny", overwrite=True)
    with pytest.raises(BundleError, match="no such file or folder"):
        import_bundle(["nowhere.pth"], "bundle")


def test_clip_file_needs_its_architecture(official_sources: dict[str, Path], models: Path, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    config = CLIP_CONFIG["model_cfg"]
    other = {**config, "vision_cfg": {**config["vision_cfg"], "patch_size": 8}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-tiny", config)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-other", other)
    weights = load_file(official_sources["clip"] / "open_clip_model.safetensors")
    file = tmp_path / "epoch_1.pt"
    torch.save({"epoch": 1, "name": "run", "state_dict": {f"module.{k}": v for k, v in weights.items()}}, file)
    with pytest.raises(BundleError, match="--clip-model NAME, such as ViT-B-32"):
        import_bundle([file], "bundle")
    with pytest.raises(BundleError, match="not 'ViT-Z'"):
        import_bundle([file], "bundle", clip_model="ViT-Z")
    with pytest.raises(BundleError, match="do not make a bundle: .*visual.conv1.weight.*--clip-model is its"):
        import_bundle([file], "bundle", clip_model="ViT-other")
    assert not list(models.iterdir())
    manifest = import_bundle([file], "bundle", clip_model="ViT-tiny")
    assert load_bundle(manifest.folder, device="cpu").clip_text(("optic disc",)).shape == (1, 16)


def test_clip_without_text_tower_is_told(models: Path, tmp_path: Path) -> None:
    folder = write_clip_folder(tmp_path / "clip")
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({k: v for k, v in weights.items() if k.startswith("visual.")}, folder / "open_clip_model.safetensors")
    manifest = import_bundle([f"local-dir:{folder}"], "eyes")
    works = abilities(load_bundle(manifest.folder, device="cpu"))
    assert manifest.architecture["clip"]["text"] is False
    assert works["naming the modality"] == "the CLIP has no text tower"


class Code:
    def __reduce__(self):
        return (print, ("this would have run",))


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.zeros(2)}, "note": Code()}, path)
    with pytest.raises(BundleError, match=r"weights\.pth: holds pickled code .*refused.*safetensors"):
        read_checkpoint(path)
    assert "would have run" not in capsys.readouterr().out


def test_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(BundleError, match="TorchScript program.*refused"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["cut.pth", "text.pth", "cut.safetensors"])
def test_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "text.pth":
        path.write_text("<html>404</html>")
    elif path.suffix == ".pth":
        write_sam(path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        save_file({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match=rf"{name}: (cannot be read as a checkpoint|holds pickled code)"):
        read_checkpoint(path)


@pytest.mark.parametrize(("tensor", "what"), [
    ("sam_mask_decoder.iou_token.weight", "looks like SAM 2, which is not supported"),
    ("image_encoder.layers.0.weight", "looks like MobileSAM"), ("vision_model.a", "the CLIP of transformers"),
    ("conv1.weight", r"unknown kind \(its first tensors: conv1.weight\)"),
])
def test_foreign_checkpoints_are_named(tmp_path: Path, tensor: str, what: str) -> None:
    torch.save({tensor: torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(BundleError, match=what):
        read_checkpoint(tmp_path / "x.pth")


def test_old_torch_reads_safetensors_only(official_sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(BundleError, match=r"torch 2\.9\.1\+cpu cannot read such a file safely"):
        read_checkpoint(official_sources["segmenter"])
    assert read_checkpoint(official_sources["clip"] / "open_clip_model.safetensors").kind == "open_clip"


def test_incomplete_sam_is_named(official_sources: dict[str, Path], tmp_path: Path, models: Path) -> None:
    state = torch.load(official_sources["segmenter"], weights_only=True)
    state.pop("mask_decoder.mask_tokens.weight")
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(BundleError, match="mask_decoder.mask_tokens.weight.*not a whole checkpoint"):
        import_bundle([tmp_path / "part.pth"], "bundle")
