"""The Segment widget with real networks: a tiny random bundle, and the shipped one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")
pytest.importorskip("torch")

from napari.utils.notifications import notification_manager

from napari_claps.inference.pipeline import Pipeline
from napari_claps.models.bundles.manifest import available_bundles, read_manifest
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.widgets import SegmentWidget
from napari_claps.plugin.widgets.run import State
from napari_claps.types import Modality

pytestmark = pytest.mark.gui
shipped = pytest.mark.skipif(not available_bundles(), reason="no bundle is installed")


@pytest.fixture
def make_widget(make_napari_viewer, qtbot):
    """Open a viewer with an image and the widget, perhaps with the bundle in a folder."""
    notification_manager.records.clear()

    def make(data=None, *, bundle=None, sample=None, **options):
        viewer = make_napari_viewer()
        if sample is not None:
            from napari_claps.plugin import sample_data as sample_data_module

            ((data, options, _),) = getattr(sample_data_module, sample)()
        viewer.add_image(data, **options)
        widget = SegmentWidget(viewer)
        viewer.window.add_dock_widget(widget)
        if bundle is not None:
            widget.form.bundle_combo.open_folder(str(bundle))
        return viewer, widget

    return make


def finish(qtbot, widget):
    qtbot.waitUntil(lambda: widget.runner.state is State.IDLE, timeout=120_000)


def errors():
    return [str(r.message) for r in notification_manager.records if str(r.severity) == "error"]


def masks_of(viewer):
    return {layer.metadata[KEY]["label"]: layer for layer in viewer.layers
            if layer.metadata.get(KEY, {}).get("content") == "masks"}


def two_targets(bundle, modality):
    return read_manifest(bundle).targets(modality)[:2]


def test_volume_with_the_tiny_bundle(make_widget, qtbot, tiny_bundle):
    volume = np.random.default_rng(0).integers(0, 255, (3, 64, 96), dtype=np.uint8)
    viewer, widget = make_widget(volume, bundle=tiny_bundle, scale=(0.24, 0.004, 0.012), units=("mm",) * 3)
    qtbot.waitUntil(lambda: widget.form.modality_combo.modality() is not None, timeout=60_000)
    assert "%" in widget.form.modality_combo.currentText(), "CLIP decided, with a probability"
    widget.form.modality_combo.set_modality(Modality.OCT)
    targets = two_targets(tiny_bundle, Modality.OCT)
    widget.form.target_list.set_targets(targets)
    widget.run()
    finish(qtbot, widget)
    assert not errors()
    assert set(masks_of(viewer)) == set(targets)
    for layer in masks_of(viewer).values():
        assert layer.data.shape == volume.shape and len(layer.metadata[KEY]["presence"]) == 3
        assert layer.metadata[KEY]["provenance"]["bundle"]["sha256"] == read_manifest(tiny_bundle).sha256


def test_what_the_bundle_does_not_know(make_widget, qtbot, tiny_bundle):
    viewer, widget = make_widget(np.zeros((64, 96, 3), np.uint8), bundle=tiny_bundle, rgb=True)
    widget.form.modality_combo.set_modality(Modality.CFP)
    known = set(read_manifest(tiny_bundle).targets(Modality.CFP))
    unknown = next(t for t in ("soft_exudate", "haemorrhage", "geographic_atrophy", "vein") if t not in known)
    widget.form.target_list.set_targets([])
    widget.form.free_text.setText(unknown)
    widget.run()
    finish(qtbot, widget)
    assert "was not trained for" in errors()[-1] and not masks_of(viewer)


def test_a_device_that_is_not_there(make_widget, qtbot, tiny_bundle):
    import torch

    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    _, widget = make_widget(np.zeros((64, 96, 3), np.uint8), bundle=tiny_bundle, rgb=True)
    widget.form.modality_combo.set_modality(Modality.CFP)
    widget.form.advanced.device.setCurrentText(absent)
    widget.run()
    finish(qtbot, widget)
    assert absent in errors()[-1] and "auto" in errors()[-1]
    widget.form.advanced.device.setCurrentText("cpu")
    widget.run()
    finish(qtbot, widget)
    assert widget.form.status.text().startswith("Done")


def test_a_damaged_bundle(make_widget, qtbot, tiny_bundle, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, folder)
    victim = next(folder.glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-10])
    _, widget = make_widget(np.zeros((64, 96, 3), np.uint8), bundle=folder, rgb=True)
    widget.form.modality_combo.set_modality(Modality.CFP)
    widget.run()
    finish(qtbot, widget)
    assert victim.name in errors()[-1] and "damaged" in errors()[-1]
    widget.form.bundle_combo.open_folder(str(tmp_path))
    assert "bundle.toml" in errors()[-1]
    assert widget.form.bundle_combo.manifest().folder == folder, "the choice before stays"


@shipped
@pytest.mark.slow
def test_fundus_photograph_with_the_shipped_bundle(make_widget, qtbot):
    viewer, widget = make_widget(sample="fundus_photograph")
    qtbot.waitUntil(lambda: widget.form.modality_combo.modality() is not None, timeout=120_000)
    assert widget.form.modality_combo.modality() is Modality.CFP
    widget.form.target_list.set_targets(["vessel", "optic_disc"])
    widget.form.advanced.coverage.choose(0.8)
    assert widget.form.status.text() == "", "the bundle was calibrated for both"
    widget.run()
    finish(qtbot, widget)
    assert not errors()
    for label, mask in masks_of(viewer).items():
        inner, outer = (next(layer.data.astype(bool) for layer in viewer.layers
                             if (layer.metadata.get(KEY) or {}).get("label") == f"{label} {which}")
                        for which in ("inner", "outer"))
        assert inner.any() and not (inner & (mask.data == 0)).any() and not ((mask.data > 0) & ~outer).any()
    vessel, disc = (masks_of(viewer)[label].data > 0 for label in ("vessel", "optic_disc"))
    assert 0.02 < vessel.mean() < 0.25
    assert 0.005 < disc.mean() < 0.06


@shipped
@pytest.mark.slow
def test_cancel_in_mid_volume_with_the_shipped_bundle(make_widget, qtbot, monkeypatch):
    begun, segment = [], Pipeline._segment
    monkeypatch.setattr(Pipeline, "_segment", lambda self, *a, **k: (begun.append(1), segment(self, *a, **k))[1])
    viewer, widget = make_widget(sample="synthetic_oct")
    qtbot.waitUntil(lambda: widget.form.modality_combo.modality() is Modality.OCT, timeout=120_000)
    widget.form.target_list.set_targets(["drusen"])
    widget.run()
    qtbot.waitUntil(lambda: bool(masks_of(viewer)), timeout=120_000)
    done = len(masks_of(viewer)["drusen"].metadata[KEY]["presence"])
    at_work = len(begun)
    widget.runner.cancel()
    finish(qtbot, widget)
    after = len(masks_of(viewer)["drusen"].metadata[KEY]["presence"])
    # The other thread may have just begun with another slice; what it has finished is shown, however late.
    assert done <= after <= len(begun) <= at_work + 1 < viewer.layers[0].data.shape[0]
    assert widget.form.status.text().startswith("Cancelled")
