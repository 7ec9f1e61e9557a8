"""The command line, napari and Python are three faces of one study: the same file gives the same by all of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_claps import Request, Settings, segment
from napari_claps.cli import main
from napari_claps.inference.pipeline import Pipeline
from napari_claps.plugin.layers import KEY
from napari_claps.plugin.session_write import write_layers
from napari_claps.plugin.widgets import SegmentWidget
from napari_claps.plugin.widgets import bundle_combo as bundle_combo_module
from napari_claps.plugin.widgets.run import State
from napari_claps.types import Modality
from tests.gui_checks import finish, labels_of

pytestmark = pytest.mark.gui

TARGETS = ["drusen", "intraretinal_fluid", "retina"]

DIFFERENT = {"written", "seconds"}
"""What of the provenance is the clock's, not the result's."""


@pytest.fixture(params=["spacing", "plane spacing", "photograph"])
def scan(request, tmp_path):
    """A file: a volume with all its spacing, one whose distance of slices nobody said, and a plane."""
    rng = np.random.default_rng(3)
    sizes = {"PhysicalSizeX": 11.5, "PhysicalSizeY": 3.9}
    if request.param == "photograph":
        path = tmp_path / "eye.tif"
        tifffile.imwrite(path, rng.integers(0, 255, (64, 96, 3), np.uint8), photometric="rgb")
        return path, "cfp", ["vessel", "optic_disc"]
    if request.param == "spacing":
        sizes["PhysicalSizeZ"] = 120.0
    path = tmp_path / "scan.ome.tif"
    tifffile.imwrite(path, rng.integers(0, 255, (4, 64, 96), np.uint8), ome=True, metadata={"axes": "ZYX", **sizes})
    return path, "oct", TARGETS


@pytest.fixture
def by_command_line(scan, tiny_bundle, tmp_path, small_views):
    path, modality, targets = scan
    asked = [word for target in targets for word in ("--target", target)]
    assert main(["segment", str(path), "-o", str(tmp_path / "out"), "--bundle", str(tiny_bundle), "--device", "cpu",
                 "--modality", modality, *asked, "--quiet"]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    return folder


@pytest.fixture
def in_napari(scan, tiny_bundle, make_napari_viewer, qtbot, small_views, monkeypatch):
    """The viewer after a run with what was chosen in the form, and the findings of the run."""
    from napari_claps.models.bundles.manifest import read_manifest

    path, modality, targets = scan
    monkeypatch.setattr(bundle_combo_module, "available_bundles", lambda: [read_manifest(tiny_bundle)])
    viewer = make_napari_viewer()
    viewer.open(path, plugin="napari-claps")
    widget = SegmentWidget(viewer, threads=True)
    viewer.window.add_dock_widget(widget)
    widget.form.modality_combo.set_modality(Modality(modality))
    widget.form.target_list.set_targets(targets)
    widget.form.advanced.device.setCurrentText("cpu")
    widget.run()
    finish(qtbot, widget)
    assert widget.runner.state is State.IDLE
    return viewer, widget.findings


def test_the_same_file_gives_the_same_three_ways(scan, by_command_line, in_napari, tiny_bundle):
    path, modality, targets = scan
    settings = Settings(bundle=str(tiny_bundle), device="cpu", modality=modality)
    python = segment(path, request=Request(tuple(targets), settings), pipeline=Pipeline.from_settings(settings))
    viewer, painted = in_napari
    layers = labels_of(viewer)
    masks = tifffile.imread(by_command_line / "masks.ome.tif").reshape(len(targets), -1, 64, 96)
    assert masks.any(), "something is found, or nothing is compared"
    for number, target in enumerate(targets):
        stacked = np.stack([result.masks[target] for result in python.slices])
        np.testing.assert_array_equal(masks[number], stacked)
        np.testing.assert_array_equal(masks[number], layers[target].data.reshape(stacked.shape))

    written = pd.read_csv(by_command_line / "measurements.csv")
    pd.testing.assert_frame_equal(written, _as_read(python.measurements), check_dtype=False, rtol=1e-5)

    pd.testing.assert_frame_equal(painted.measurements, python.measurements)

    facts = json.loads((by_command_line / "provenance.json").read_text())
    shown = layers[targets[0]].metadata[KEY]["provenance"]
    for other in (json.loads(json.dumps(python.findings.provenance)), shown):
        assert {k: v for k, v in facts.items() if k not in DIFFERENT} == {
            k: v for k, v in other.items() if k not in DIFFERENT}

    doubts = python.findings.doubts
    assert (by_command_line / "doubts.csv").exists() == (doubts is not None)
    if doubts is not None:
        rows = pd.read_csv(by_command_line / "doubts.csv")
        assert [(d.slice_index, d.label, d.instance) for d in doubts] == list(
            rows[["slice", "structure", "instance"]].itertuples(index=False, name=None))
        listed = [(d["slice_index"], d["label"], d["instance"]) for layer in layers.values()
                  for d in layer.metadata[KEY]["doubts"]]
        assert sorted(listed) == sorted((d.slice_index, d.label, d.instance) for d in doubts)

    violations = python.findings.violations
    if (by_command_line / "anatomy.csv").exists():
        rows = pd.read_csv(by_command_line / "anatomy.csv")
        assert [(v.slice_index, v.label, v.reason) for v in violations] == list(
            rows[["slice", "structure", "reason"]].itertuples(index=False, name=None))
    said = [(v["slice_index"], v["label"], v["reason"]) for layer in layers.values()
            for v in layer.metadata[KEY].get("violations", ())]
    assert sorted(said) == sorted((v.slice_index, v.label, v.reason) for v in violations)


@pytest.mark.parametrize("scan", ["spacing"], indirect=True)
def test_a_run_made_in_napari_is_replayed_on_the_command_line(scan, in_napari, tiny_bundle, tmp_path, capsys):
    path, _, targets = scan
    session = tmp_path / "made.claps.zip"
    write_layers(str(session), [layer.as_layer_data_tuple() for layer in in_napari[0].layers])
    code = main(["segment", str(path), "-o", str(tmp_path / "again"), "--replay", str(session),
                 "--bundle", str(tiny_bundle)])
    out = capsys.readouterr().out
    assert code == 0 and "masks are the same as then, bit for bit" in out
    again = tifffile.imread(tmp_path / "again" / "scan" / "masks.ome.tif")
    for number, target in enumerate(targets):
        np.testing.assert_array_equal(again[number], labels_of(in_napari[0])[target].data)


def _as_read(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it comes out of its file."""
    import io

    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g")
    text.seek(0)
    return pd.read_csv(text)
