"""``claps models``: list, get, import, verify, remove."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import requests

from napari_claps.models.bundles import registry
from napari_claps.models.bundles.manifest import PACKAGED, models_folder
from napari_claps.models.bundles.registry import Checkpoint, RemoteFile
from tests.command_line import assert_one_error


@pytest.fixture()
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, and no network."""
    def nowhere(*_: object, **__: object) -> None:
        raise AssertionError("only get may use the network")

    monkeypatch.setattr(requests, "get", nowhere)
    monkeypatch.setenv("CLAPS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture()
def downloaded(models: Path, official_sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small SAM as if it had been downloaded by name."""
    content = official_sources["segmenter"].read_bytes()
    file = RemoteFile("https://example.invalid/sam.pth", "sam.pth", len(content), hashlib.sha256(content).hexdigest())
    checkpoint = Checkpoint("sam-small", "small SAM", "segmenter", "Apache-2.0", "https://example.invalid", (file,))
    monkeypatch.setitem(registry.CHECKPOINTS, "sam-small", checkpoint)
    path = checkpoint.path(models)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_folder_is_the_given_one_then_the_variable_then_the_cache(tmp_path: Path, models: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_folder() == models and models_folder(tmp_path) == tmp_path
    monkeypatch.delenv("CLAPS_MODELS")
    assert models_folder().name == "models" and "napari-claps" in str(models_folder())


def test_without_action_it_lists_bundles_and_checkpoints(claps, models: Path) -> None:
    code, out, _ = claps("models")
    assert code == 0 and out.startswith("claps-tiny")
    for text in ("sam-vit-h", "2,565 MB", "Apache-2.0", "groundingdino-swin-b", "bert-base-uncased", str(models)):
        assert text in out
    assert out == claps("models", "list")[1] and not models.exists()


def test_import_list_verify_segment_remove(claps, models: Path, downloaded: Path, official_sources: dict[str, Path],
                                           tmp_path: Path) -> None:
    code, out, _ = claps("models", "import", "sam-small", official_sources["detector"], official_sources["text"],
                         "--name", "mine")
    assert code == 0, out
    assert "accuracy unknown" in out and "claps                works" in out
    assert "salip                does not work: no CLIP" in out and "licence: Apache-2.0 and unknown" in out
    assert "small SAM" in claps("models", "list")[1] and "\nmine imported" in claps("models")[1]
    code, out, _ = claps("models", "verify")
    assert code == 0 and "mine: good (sha256 of" in out and "sam-small: good (sam.pth: sha256)" in out
    weights = models / "mine" / "segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, out, _ = claps("models", "verify", "mine")
    assert code == 1 and "segmenter.safetensors is damaged" in out
    code, out, _ = claps("models", "remove", "mine", "sam-small")
    assert code == 0 and not (models / "mine").exists() and not downloaded.exists()


def test_damaged_download_is_told(claps, downloaded: Path) -> None:
    downloaded.write_bytes(b"x" + downloaded.read_bytes()[1:])
    code, out, _ = claps("models", "verify", "sam-small")
    assert code == 1 and "damaged or was replaced" in out


@pytest.mark.parametrize(("arguments", "texts"), [
    (("remove", "claps-tiny"), ("claps-tiny came with the package",)),
    (("remove", "nothing"), ("nothing called 'nothing'",)),
    (("remove", "../models"), ("nothing called '../models'",)),
    (("remove", ".."), ("nothing called '..'",)),
    (("get", "sam-vit-z"), ("'sam-vit-z'", "sam-vit-b, sam-vit-l")),
    (("import", "sam-vit-b", "--name", "x"), ("was not downloaded", "claps models get sam-vit-b")),
    (("import", "missing.pth", "--name", "x"), ("missing.pth", "no such file")),
    (("list", "nothing"), ("There is no bundle 'nothing'",)),
])
def test_what_cannot_be_done_is_one_line(claps, models: Path, arguments: tuple[str, ...],
                                         texts: tuple[str, ...]) -> None:
    models.mkdir()
    shutil.copyfile(PACKAGED / "claps-tiny" / "bundle.toml", models.parent / "bundle.toml")
    code, _, err = claps("models", *arguments)
    assert code == 2
    assert_one_error(err, *texts)
    assert (PACKAGED / "claps-tiny" / "bundle.toml").is_file()


def test_remove_is_all_or_nothing(claps, downloaded: Path) -> None:
    assert claps("models", "remove", "sam-small", "nothing")[0] == 2
    assert downloaded.exists()


def test_get_says_what_it_gets_and_what_comes_next(claps, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_claps.models.bundles import download

    asked = []

    def fetch(file: RemoteFile, target: Path, *, progress) -> Path:
        asked.append((file.url, target))
        progress(target.name, 5, 10)
        return target

    monkeypatch.setattr(download, "download", fetch)
    code, out, _ = claps("models", "get", "bert-base-uncased", "--folder", models / "other")
    assert code == 0 and "Apache-2.0" in out and "Next: claps models import bert-base-uncased --name NAME" in out
    assert [t for _, t in asked] == [models / "other" / "downloads" / "bert-base-uncased" / n
                                     for n in ("config.json", "vocab.txt")]


def test_broken_bundle_does_not_hide_the_others(claps, models: Path) -> None:
    (models / "broken").mkdir(parents=True)
    (models / "broken" / "bundle.toml").write_text("name = [")
    code, out, _ = claps("models")
    assert code == 1 and "claps-tiny" in out and "broken: " in out
