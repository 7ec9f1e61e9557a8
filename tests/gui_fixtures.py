"""Fixtures of the GUI tests: a real viewer, the Segment widget, and a pipeline in the test's hands.

A test module asks for them with ``pytest_plugins = ["tests.gui_fixtures"]``.
"""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari.utils.notifications import notification_manager

from napari_claps.plugin.engine import Engine
from napari_claps.plugin.widgets import SegmentWidget
from napari_claps.plugin.widgets import bundle_combo as bundle_combo_module
from tests.fake_pipeline import MANIFEST, FakePipeline
from tests.gui_checks import VOLUME


@pytest.fixture
def pipeline(monkeypatch):
    """The pipeline that every engine uses."""
    fake = FakePipeline()
    monkeypatch.setattr(bundle_combo_module, "available_bundles", lambda: [MANIFEST])
    monkeypatch.setattr(Engine, "_pipeline", lambda self, settings: fake.with_settings(settings))
    notification_manager.records.clear()
    return fake


@pytest.fixture
def make_widget(make_napari_viewer, pipeline, qtbot):
    """Open a viewer with an image and the widget docked; wait until the modality is known."""

    def make(data=VOLUME, *, threads=True, viewer=None, **options):
        viewer = viewer or make_napari_viewer()
        viewer.add_image(data, **options)
        widget = SegmentWidget(viewer, threads=threads)
        viewer.window.add_dock_widget(widget, name="Segment")
        qtbot.waitUntil(lambda: widget.form.modality_combo.modality() is not None, timeout=60000)
        return viewer, widget

    return make


@pytest.fixture
def gate(pipeline):
    """Hold the pipeline before slice 3 until the gate is opened."""
    opened = threading.Event()

    def before_slice(index):
        if index == 3:
            assert opened.wait(250)

    pipeline.before_slice = before_slice
    yield opened
    opened.set()
