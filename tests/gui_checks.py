"""Images for the GUI tests, and what they ask a viewer with the Segment widget."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.utils.notifications import notification_manager

from napari_claps.plugin.layers import KEY
from napari_claps.plugin.widgets.run import State

VOLUME = np.random.default_rng(0).integers(0, 255, (12, 40, 60), dtype=np.uint8)
FUNDUS = np.random.default_rng(1).integers(0, 255, (64, 80, 3), dtype=np.uint8)
PLACE = dict(scale=(0.24, 0.004, 0.012), translate=(1.0, 2.0, 3.0), units=("mm", "mm", "mm"),
             axis_labels=("z", "y", "x"))


def idle(widget):
    return widget.runner.state is State.IDLE


def finish(qtbot, widget):
    qtbot.waitUntil(lambda: idle(widget), timeout=60000)


def errors():
    return [str(r.message) for r in notification_manager.records if str(r.severity) == "error"]


def labels_of(viewer):
    return {layer.metadata[KEY]["label"]: layer for layer in viewer.layers
            if layer.metadata.get(KEY, {}).get("content") == "masks"}


def boxes_of(viewer):
    return [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("content") == "boxes"]


def wait_for_slices(qtbot, viewer, n_slices):
    """Wait until so many slices have arrived in the layers."""
    qtbot.waitUntil(lambda: any(len(layer.metadata[KEY]["presence"]) >= n_slices
                                for layer in labels_of(viewer).values()), timeout=60000)
