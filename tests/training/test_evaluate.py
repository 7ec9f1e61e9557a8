"""The report on a small data folder, with a pipeline whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import average_precision_score

from napari_claps.types import Box, Modality, ModalityGuess, RetinalImage, SliceResult
from training.choose.probability import LEVELS, PrecisionRecall
from training.data.records import first_of_each, segmentation_records
from training.report import evaluate as training_evaluate
from training.report.evaluate import evaluate
from training.report.files import write_report

SHAPE = (40, 60)
DISC = np.zeros(SHAPE, bool)
DISC[10:30, 20:40] = True
FIELD = np.zeros(SHAPE, bool)
FIELD[:, :30] = True

ROWS = [
    # dataset, split, modality, stem, targets, masks that exist
    ("one", "val", "cfp", "a", "optic_disc soft_exudate vessel fov", ("optic_disc", "vessel", "fov")),
    ("one", "val", "cfp", "b", "optic_disc", ("optic_disc",)),
    ("two", "val", "oct", "c", "drusen shrm", ("drusen", "shrm")),
    ("two", "train", "oct", "d", "drusen", ()),
]


@pytest.fixture
def data_folder(tmp_path, monkeypatch) -> Path:
    lines = ["dataset,split,modality,image,width,height,targets"]
    for dataset, split, modality, stem, targets, present in ROWS:
        image = f"segmentation/{dataset}/images/{stem}.png"
        lines.append(f"{dataset},{split},{modality},{image},{SHAPE[1]},{SHAPE[0]},{targets}")
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SHAPE, 3), 90, np.uint8)).save(tmp_path / image)
        for target in present:
            path = tmp_path / f"segmentation/{dataset}/masks/{target}/{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((FIELD if target == "fov" else DISC).astype(np.uint8) * 255).save(path)
    (tmp_path / "segmentation.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("CLAPS_DATA", str(tmp_path))
    return tmp_path


class KnownPipeline:
    """Finds the disc everywhere, takes image b for an OCT B-scan, and was not made for shrm."""

    def __init__(self) -> None:
        pairs = {("cfp", "optic_disc"), ("cfp", "soft_exudate"), ("cfp", "vessel"), ("oct", "drusen")}
        manifest = SimpleNamespace(
            name="known",
            version="1",
            sha256="0",
            pair=lambda modality, target: (str(modality), target) in pairs or None,
        )
        self.bundle = SimpleNamespace(manifest=manifest, device="cpu")
        self.asked: dict[str, list[str]] = {}

    def detect_modality(self, image: RetinalImage) -> ModalityGuess:
        stem = Path(image.source).stem
        return ModalityGuess(Modality.CFP if stem == "a" else Modality.OCT, 0.9, "detected")

    def run(self, image, targets, *, modality) -> Iterator[SliceResult]:
        self.asked[Path(image.source).stem] = list(targets)
        masks = {t: DISC.astype(np.uint16) for t in targets}
        boxes = tuple(Box(10, 20, 30, 40, t, 0.8) for t in targets)
        yield SliceResult(0, modality, (), masks, boxes, dict.fromkeys(targets, 0.7), {})


@pytest.fixture
def evaluation(data_folder):
    pipeline = KnownPipeline()
    return evaluate(pipeline, segmentation_records("val")), pipeline


def test_every_annotated_target_is_looked_for_in_one_run(evaluation):
    result, pipeline = evaluation
    assert pipeline.asked == {"a": ["optic_disc", "soft_exudate", "vessel"], "c": ["drusen"]}
    assert result.not_in_bundle == {"oct shrm": 1}


def test_absent_wrong_modality_and_field_of_view(evaluation):
    scores = {(s.image, s.target): s for s in evaluation[0].scores}
    assert set(scores) == {
        ("a", "optic_disc"),
        ("a", "soft_exudate"),
        ("a", "vessel"),
        ("b", "optic_disc"),
        ("c", "drusen"),
    }
    assert scores["a", "optic_disc"].masks.dice == 1 and len(scores["a", "optic_disc"].boxes[0].truth) == 1
    assert not scores["a", "soft_exudate"].masks.present and scores["a", "soft_exudate"].masks.found
    assert scores["a", "vessel"].masks.truth_size == (DISC & FIELD).sum() and scores["a", "vessel"].masks.cldice == 1
    # The modality was taken wrongly, so the disc was refused: a failure, not a missing value.
    assert scores["b", "optic_disc"].masks.dice == 0 and scores["b", "optic_disc"].presence == 0


def test_report_files(evaluation, tmp_path):
    result, _ = evaluation
    about = {"bundle": "known", "version": "1", "part": "val", "device": "cpu", "not_in_bundle": result.not_in_bundle}
    write_report(tmp_path / "report", about, result.scores, result.images, result.worst)
    summary = json.loads((tmp_path / "report/summary.json").read_text())
    assert summary["n_images"] == 3 and summary["modality_accuracy"] == pytest.approx(2 / 3)
    assert summary["modality_mistakes"] == [{"dataset": "one", "image": "b", "modality": "cfp", "detected": "oct"}]
    rows = {(r["dataset"], r["target"]): r for r in summary["summary"]}
    assert rows["one", "optic_disc"]["dice"] == 0.5 and rows["one", "optic_disc"]["ap50"] == pytest.approx(51 / 101)
    assert rows["one", "soft_exudate"]["false_positive_rate"] == 1 and rows["one", "soft_exudate"]["dice"] is None
    text = (tmp_path / "report/report.md").read_text()
    assert "| one | optic_disc | 2 | 0 | 0.500 | 0.000 to 1.000 |" in text
    assert "Modality right in 66.7%" in text and "oct shrm (1)" in text
    assert len(pd.read_csv(tmp_path / "report/scores.csv")) == 5
    names = {p.name for p in (tmp_path / "report/worst").iterdir()}
    assert names == {"optic_disc_1.png", "optic_disc_2.png", "vessel_1.png", "drusen_1.png"}


def test_the_worst_are_kept_worst_first(data_folder):
    class Shrinking(KnownPipeline):
        def run(self, image, targets, *, modality):
            found = DISC.copy()
            found[:, 20 : 20 + len(self.asked)] = False
            self.asked[str(len(self.asked))] = []
            masks = dict.fromkeys(targets, found.astype(np.uint16))
            yield SliceResult(0, modality, (), masks, (), dict.fromkeys(targets, 0.7), {})

    record = segmentation_records("val")[0]
    dices = [f.dice for f in sorted(evaluate(Shrinking(), [record] * 6).worst["optic_disc"], reverse=True)]
    assert len(dices) == 3 and dices == sorted(dices) and dices[0] == pytest.approx(2 * 5 / (5 + 10))


def test_limit_is_per_data_set(data_folder):
    assert [r.stem for r in first_of_each(segmentation_records("val"), 1)] == ["a", "c"]


def test_command_reports_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("CLAPS_DATA", raising=False)
    assert training_evaluate.main(["--out", str(tmp_path / "report")]) == 1
    assert "CLAPS_DATA is not set" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        training_evaluate.main(["--out", str(tmp_path), "--holdout"])
    assert "--split train" in capsys.readouterr().err


def test_command_with_a_real_pipeline(data_folder, tiny_bundle, tmp_path, capsys):
    arguments = ["--bundle", tiny_bundle, "--split", "val", "--device", "cpu", "--out", tmp_path / "report"]
    assert training_evaluate.main([str(a) for a in arguments]) == 0
    summary = json.loads((tmp_path / "report/summary.json").read_text())
    assert summary["n_images"] == 3 and summary["bundle"] and len(summary["sha256"]) == 64
    assert summary["seconds_per_image"]["median"] > 0
    table = pd.read_csv(tmp_path / "report/scores.csv")
    assert {"optic_disc", "drusen"} <= set(table.target) and table.presence.between(0, 1).all()
    assert "| data set | target |" in capsys.readouterr().out
    areas = pd.read_csv(tmp_path / "report/aupr.csv").set_index(["dataset", "target"])["aupr"]
    assert 0 < areas["two", "drusen"] <= 1 and 0 < areas["one", "vessel"] <= 1
    rows = {(r["dataset"], r["target"]): r["aupr"] for r in summary["aupr"]}
    assert rows == {key: pytest.approx(value) for key, value in areas.dropna().items()}


@given(arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32)), arrays(bool, (6, 7)), arrays(bool, (6, 7)))
def test_area_under_the_curve_is_that_of_scikit_learn(probability, truth, field):
    curve = PrecisionRecall()
    curve.add(probability[:3], truth[:3], field[:3])
    curve.add(probability[3:], truth[3:], field[3:])
    if not truth[field].any():
        assert np.isnan(curve.area())
        return
    levels = np.rint(probability.astype(float) * (LEVELS - 1)).astype(int)
    assert curve.area() == pytest.approx(average_precision_score(truth[field], levels[field]), abs=1e-9)


def test_pixels_without_a_field_of_view_all_count():
    curve = PrecisionRecall()
    curve.add(np.array([[0.9, 0.8], [0.7, 0.1]]), np.array([[True, False], [True, False]]))
    assert curve.area() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
