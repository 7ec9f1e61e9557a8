"""The Models widget lists what ``claps models list`` lists."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")
pytest.importorskip("torchvision")  # loads Triton, which must come before the first window, see `_triton`

from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_claps.models.bundles.manifest import PACKAGED, bundle_folders, read_manifest
from napari_claps.models.bundles.registry import CHECKPOINTS
from napari_claps.plugin.widgets import ModelsWidget

pytestmark = pytest.mark.gui


@pytest.fixture
def models(qtbot, monkeypatch, tmp_path, tiny_bundle):
    """The widget, with a copy of the tiny bundle, a damaged bundle and one download in the user's folder."""
    monkeypatch.setenv("CLAPS_MODELS", str(tmp_path))
    shutil.copytree(tiny_bundle, tmp_path / "mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bundle.toml").write_text("this is no TOML")
    for path in CHECKPOINTS["sam-vit-b"].paths(tmp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    widget = ModelsWidget(ViewerModel())
    qtbot.addWidget(widget)
    return widget


def children(item):
    return [item.child(i) for i in range(item.childCount())]


def find(widget, text):
    (item,) = widget.tree.findItems(text, Qt.MatchFlag.MatchExactly | Qt.MatchFlag.MatchRecursive)
    return item


def test_it_lists_bundles_and_published_checkpoints(models, tmp_path):
    bundles, published = models.tree.topLevelItem(0), models.tree.topLevelItem(1)
    assert [b.text(0) for b in children(bundles)] == [
        *(read_manifest(f).name for f in bundle_folders() if f.parent == PACKAGED), "broken",
        read_manifest(tmp_path / "mine").name]  # fmt: skip
    assert [c.text(0) for c in children(published)] == list(CHECKPOINTS)
    assert find(models, "sam-vit-b").text(1) == "here"
    assert find(models, "sam-vit-l").text(1) == "1,250 MB"


def test_a_bundle_shows_what_it_finds(models, tmp_path):
    manifest = read_manifest(tmp_path / "mine")
    mine = find(models, manifest.name)
    modalities = children(mine)
    assert len(modalities) == len(manifest.modalities)
    listed = [pair.text(0) for group in modalities for pair in children(group)]
    assert sorted(listed) == sorted(pair.target for pair in manifest.pairs)
    models.tree.setCurrentItem(mine)
    assert manifest.notice in models.details.text() and str(tmp_path) in models.details.text()


def test_details_name_the_licence_and_the_next_step(models):
    models.tree.setCurrentItem(find(models, "groundingdino-swin-t"))
    assert "Apache-2.0" in models.details.text() and "claps models get groundingdino-swin-t" in models.details.text()
    assert not models.verify_button.isEnabled()
    models.tree.setCurrentItem(find(models, "sam-vit-b"))
    assert "claps models import sam-vit-b" in models.details.text()
    models.tree.setCurrentItem(find(models, "broken"))
    assert "bundle.toml" in models.details.text() and not models.verify_button.isEnabled()


def test_verify(models, qtbot, tmp_path):
    name = read_manifest(tmp_path / "mine").name
    models.tree.setCurrentItem(find(models, name))
    models.verify_button.click()
    qtbot.waitUntil(models.verify_button.isEnabled, timeout=60_000)
    assert models.details.text().startswith(f"{name}: good (sha256 of")
    victim = next((tmp_path / "mine").glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-10])
    models.verify_button.click()
    qtbot.waitUntil(models.verify_button.isEnabled, timeout=60_000)
    assert victim.name in models.details.text() and "damaged" in models.details.text()


def test_refresh(models, tmp_path):
    shutil.rmtree(tmp_path / "broken")
    models.refresh_button.click()
    assert not models.tree.findItems("broken", Qt.MatchFlag.MatchExactly | Qt.MatchFlag.MatchRecursive)
