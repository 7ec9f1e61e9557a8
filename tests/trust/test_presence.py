"""A calibrated bundle in use: probabilities, inner and outer masks, refusals, and the report that checks its word."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from PIL import Image

from napari_claps.errors import BundleError, InputError
from napari_claps.inference.pipeline import Pipeline
from napari_claps.inference.preprocess import to_unit_rgb
from napari_claps.models.bundles.manifest import read_manifest
from napari_claps.settings import Settings
from napari_claps.synthetic import synthetic_bscan
from napari_claps.types import Modality, ModalityGuess, RetinalImage
from training.choose import calibrate
from training.data.records import is_held_out
from training.report import evaluate
from training.report.model_card import write_card
from training.report.reliability import wilson

BANDS = {"inner": {"0.8": 0.7, "0.9": 0.9}, "outer": {"0.8": 0.2, "0.9": 0.1}, "n_inner": 11, "n_outer": 12}
SURE = {"calibration": {"offset": 3.0, "presence": 0.1}, "presence": 0.3, **BANDS}
ABSENT = {"calibration": {"offset": -5.0}, "presence": 0.3, **BANDS}


def calibrated(folder: Path, source: Path, **values: dict[str, Any]) -> Path:
    """A copy of a bundle whose OCT pairs have these values."""
    shutil.copytree(source, folder)
    content = tomllib.loads((folder / "bundle.toml").read_text())
    for pair in content["pairs"]:
        pair |= values.get(pair["target"], {})
    (folder / "bundle.toml").write_text(tomli_w.dumps(content))
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated(tmp_path_factory.mktemp("trust") / "tiny", tiny_bundle, drusen=SURE, intraretinal_fluid=ABSENT,
                      subretinal_fluid={"n_inner": 2, "n_outer": 3})


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Pipeline:
    return Pipeline.from_settings(Settings(bundle=str(bundle), device="cpu"))


def scan() -> RetinalImage:
    return RetinalImage((np.random.default_rng(0).random((40, 64)) * 255).astype(np.uint8), modality=Modality.OCT)


def test_presence_is_a_probability_and_below_its_threshold_all_is_empty(pipeline: Pipeline) -> None:
    result = next(iter(pipeline.with_settings(coverage=0.9).run(scan(), ["drusen", "intraretinal_fluid"])))
    assert result.presence["drusen"] > 0.9 and result.masks["drusen"].any()
    assert result.presence["intraretinal_fluid"] == pytest.approx(1 / (1 + np.exp(5)))
    for planes in (result.masks, result.inner, result.outer):
        assert not planes["intraretinal_fluid"].any()
    mask = result.masks["drusen"] > 0
    assert not (result.inner["drusen"] & ~mask).any() and not (mask & ~result.outer["drusen"]).any()
    assert result.outer["drusen"].sum() > mask.sum()


def test_a_bundle_without_calibration_is_as_before(tiny_bundle: Path, pipeline: Pipeline) -> None:
    plain = Pipeline.from_settings(Settings(bundle=str(tiny_bundle), device="cpu"))
    assert all(not p.calibration and not p.outer for p in plain.bundle.manifest.pairs)
    before, after = (next(iter(p.run(scan(), ["drusen"]))) for p in (plain, pipeline))
    np.testing.assert_array_equal(before.masks["drusen"], after.masks["drusen"])
    assert before.presence != after.presence and not before.outer and not before.inner
    with pytest.raises(BundleError, match=r"no inner and outer masks of coverage 0.9 in an OCT B-scan for: drusen "
                                          r"\(it was not calibrated\)"):
        plain.with_settings(coverage=0.9).run(scan(), ["drusen"])


def test_refusals_name_the_target_and_the_reason(pipeline: Pipeline) -> None:
    with pytest.raises(BundleError, match=r"for: subretinal_fluid \(2 calibration images are too few, 9 are needed\); "
                                          r"retina \(it was not calibrated\); dark round cyst \(free text was not "):
        pipeline.with_settings(coverage=0.9).run(scan(), ["drusen", "subretinal_fluid", "retina", "dark round cyst"])
    with pytest.raises(BundleError, match=r"drusen \(11 calibration images are too few, 19 are needed\)"):
        pipeline.with_settings(coverage=0.95).run(scan(), ["drusen"])
    with pytest.raises(InputError, match="leave out the other method and the score threshold"):
        pipeline.with_settings(coverage=0.9, score_threshold=0.4).run(scan(), ["drusen"])


def test_a_calibration_without_its_offset_is_a_damaged_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = calibrated(tmp_path / "damaged", tiny_bundle, drusen={"calibration": {"mask": 1.0}})
    with pytest.raises(BundleError, match="calibration of drusen has no offset"):
        read_manifest(folder)


def test_one_nan_between_the_pixels_of_the_sample_is_found() -> None:
    data = np.ones((1200, 1500), np.float32)
    data[0, 1] = np.nan
    with pytest.raises(InputError, match="big.tif: 1 of 1800000 values are NaN"):
        to_unit_rgb(data, limits=(0.0, 1.0), source="big.tif")


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """B-scans, ten held out of training with drusen in every other one, and six for the report with four."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    stems = [f"a{i}" for i in range(200) if is_held_out("made", f"a{i}")][:10]
    rows = []
    for split, stem, i in [("train", s, i) for i, s in enumerate(stems)] + [("val", f"v{i}", i) for i in range(6)]:
        shown = i % (2 if split == "train" else 3) > 0
        image, truth = synthetic_bscan(rng, shape=(64, 96), findings=("drusen",) if shown else ())
        folders = {"images": image}
        if shown and truth["drusen"].any():
            folders["masks/drusen"] = (truth["drusen"] * 255).astype(np.uint8)
        for name, pixels in folders.items():
            path = root / "segmentation" / "made" / name / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        rows.append(["made", split, "oct", f"segmentation/made/images/{stem}.png", 96, 64, "drusen"])
    with (root / "segmentation.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["dataset", "split", "modality", "image", "width", "height", "targets"], *rows])
    monkeypatch.setenv("CLAPS_DATA", str(root))
    return root


def test_calibrating_writes_into_the_pairs(data_folder: Path, tiny_bundle: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pairs = tmp_path / "pairs.json"
    content = {"pairs": [{"modality": "oct", "target": "drusen", "threshold": 0.5, "presence": 0.0, "text_weight": 0.5,
                          "box_threshold": 0.0, "min_area": 4, "told_apart": True, "dice_held_out": 0.5},
                         {"modality": "oct", "target": "shrm", "threshold": 0.5, "dice_held_out": 0.1}]}
    pairs.write_text(json.dumps(content))
    monkeypatch.setattr("napari_claps.inference.pipeline.working_side", lambda modality, kind, shape: max(shape))
    monkeypatch.setattr(sys, "argv", ["calibrate", "--bundle", str(tiny_bundle), "--pairs", str(pairs)])
    calibrate.main()
    drusen, shrm = json.loads(pairs.read_text())["pairs"]
    assert drusen["n_outer"] == 5 and "offset" in drusen["calibration"] and 0 <= drusen["presence"] <= 0.5
    assert not {"0.9", "0.95"} & set(drusen["outer"]), "five images give 0.8 at best"
    assert shrm == content["pairs"][1], "what the bundle will refuse is left alone"
    assert "drusen" in capsys.readouterr().out


@pytest.mark.usefixtures("small_views")
def test_the_report_and_the_card_say_whether_it_holds(data_folder: Path, bundle: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    # The weights are random, so the modality is as well.
    monkeypatch.setattr(Pipeline, "detect_modality", lambda *_: ModalityGuess(Modality.OCT, 1.0, "detected"))
    arguments = ["--bundle", bundle, "--device", "cpu", "--coverage", "0.9", "--out", tmp_path / "report"]
    assert evaluate.main([str(a) for a in arguments]) == 0
    facts = json.loads((tmp_path / "report/summary.json").read_text())
    (row,), (band,) = facts["reliability"], facts["bands"]
    assert facts["coverage"] == 0.9 and (row["modality"], row["target"]) == ("oct", "drusen")
    assert (row["n_present"], row["n_absent"], band["n_present"]) == (4, 2, 4)
    assert row["ece"] == pytest.approx(row["probability"] - 4 / 6, abs=0.2) and row["probability"] > 0.9
    with Image.open(tmp_path / "report/reliability.png") as picture:
        assert min(picture.size) > 250
    bands = pd.read_csv(tmp_path / "report/bands.csv")
    assert len(bands) == 6 and bands["covered"].count() == 4 and bands["covered"].dropna().between(0, 1).all()
    assert band["covered"] == pytest.approx(bands["covered"].mean(), abs=1e-4)
    assert "Inner and outer masks of coverage 0.9" in (tmp_path / "report/report.md").read_text()
    (tmp_path / "limits.md").write_text("- none\n")
    write_card(str(bundle), tmp_path / "report", tmp_path / "limits.md", tmp_path / "docs" / "card.md")
    card = (tmp_path / "docs/card.md").read_text()
    assert f"| oct | drusen | 4 | 2 | {row['ece']:.2f} |" in card and "Promised: 0.9 on average" in card
    assert (tmp_path / "docs/images/reliability.png").is_file() and "](images/reliability.png)" in card


def test_wilson_interval() -> None:
    low, high = wilson(0.0, 10)
    assert low == pytest.approx(0, abs=1e-9) and high == pytest.approx(0.2775, abs=1e-3)
