"""Bundles: what they know, and what is said when one is missing or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from napari_claps.device import choose_device
from napari_claps.errors import BundleError, DeviceError
from napari_claps.inference.pipeline import Pipeline
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.models.bundles.manifest import available_bundles, read_manifest
from napari_claps.settings import Settings
from napari_claps.types import Modality


def test_manifest_lists_pairs(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    assert manifest.name == "tiny" and Modality.OCT in manifest.modalities
    assert "drusen" in manifest.targets(Modality.OCT) and manifest.pair(Modality.OCT, "optic_cup") is None
    manifest.verify()


def test_shipped_bundle_is_whole_small_and_has_a_notice() -> None:
    manifest = next(b for b in available_bundles() if b.name == "claps-tiny")
    manifest.verify()
    assert sum(p.stat().st_size for p in manifest.folder.rglob("*") if p.is_file()) <= 60_000_000
    assert "not for clinical" in manifest.notice.lower()
    assert all(p.name == "bundle.toml" or p.relative_to(manifest.folder).as_posix() in manifest.files
               for p in manifest.folder.rglob("*") if p.is_file())


def test_missing_bundle_lists_what_is_there() -> None:
    with pytest.raises(BundleError, match="There is no bundle 'nothing'.*Installed: .*claps-tiny"):
        read_manifest("nothing")


@pytest.mark.parametrize("name", ["clip.safetensors", "text/tokenizer.json"])
def test_damaged_file_is_named(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{Path(name).name} is damaged"):
        load_bundle(folder, device="cpu")
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{Path(name).name} is missing"):
        load_bundle(folder, device="cpu")


def test_unreadable_description_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    (folder / "bundle.toml").write_text("name = [")
    with pytest.raises(BundleError, match=r"bundle\.toml: is not a readable bundle description"):
        load_bundle(folder, device="cpu")


def test_weights_of_another_architecture_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace("embed_dim = 16", "embed_dim = 24"))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_bundle(folder, device="cpu")


def test_absent_device_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA GPU.*Use 'cpu' or 'auto'"):
        choose_device("cuda")
    with pytest.raises(DeviceError, match="Unknown device 'tpu'"):
        choose_device("tpu")
    assert choose_device("auto") in ("cpu", "mps")


def test_the_folder_of_models_is_a_setting(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "models" / "mine")
    (tmp_path / "s.toml").write_text(f'bundle = "mine"\nmodels_folder = "{(tmp_path / "models").as_posix()}"\n')
    settings, _ = Settings.from_toml(tmp_path / "s.toml")
    assert Pipeline.from_settings(settings).bundle.manifest.folder == tmp_path / "models" / "mine"
    with pytest.raises(BundleError, match="no bundle 'mine'"):
        Pipeline.from_settings(Settings(bundle="mine"))


def test_a_target_of_a_later_version_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.toml"
    path.write_text(path.read_text().replace('target = "drusen"', 'target = "macrophage"'))
    with pytest.raises(BundleError, match=r"bundle\.toml: .*does not know the target 'macrophage'; update"):
        read_manifest(tmp_path / "bundle")
