"""The table that puts the results of the benchmarks side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.comparison import main


def summary(path: Path, **dice: float | None) -> Path:
    """A file of scores: `dataset__target=Dice`, of 11 images each; None where no image shows the target."""
    rows = [{"dataset": key.split("__")[0], "target": key.split("__")[1], "n_present": 0 if value is None else 11,
             "dice": value} for key, value in dice.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"summary": rows}))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    summary(tmp_path / "report" / "summary.json", drive__vessel=0.79, idrid__disc=0.9, kermany__drusen=None)
    one = summary(tmp_path / "cfp.json", drive__vessel=0.8, idrid__disc=0.95, drive__vein=0.5)
    two = summary(tmp_path / "oct.json", kermany__drusen=0.6)
    boxes = summary(tmp_path / "boxes.json", idrid__disc=0.97)
    summary(tmp_path / "boxes_without_text.json", idrid__disc=0.93)
    return ["--report", str(tmp_path / "report"), "--unet", str(one), str(two), "--boxes", str(boxes),
            "--out", str(tmp_path / "table.md")]


def test_every_target_has_a_row_and_a_refused_one_says_so(inputs, tmp_path):
    assert main(inputs) == 0
    text = (tmp_path / "table.md").read_text()
    assert "| drive | vessel | 11 | 0.790 | 0.800 | -0.010 |  |  |" in text
    assert "| idrid | disc | 11 | 0.900 | 0.950 | -0.050 | 0.970 | 0.930 |" in text
    assert "| drive | vein | 11 | refused | 0.500 |  |  |  |" in text
    assert "| mean | of the 2 rows that both answer | | 0.845 | 0.875 | -0.030 | | |" in text
    assert "images show the target: idrid disc." in text


def test_the_steps_of_each_unet_are_told(inputs, tmp_path):
    assert main(inputs) == 0
    assert "Steps of the U-Nets" not in (tmp_path / "table.md").read_text(), "nothing is known of them"
    file = tmp_path / "oct.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "modality": "oct", "steps": 600}))
    assert main(inputs) == 0
    assert "Steps of the U-Nets, of 8 views each: oct 600.\n" in (tmp_path / "table.md").read_text()


def test_the_cost_of_a_source_that_was_not_seen(inputs, tmp_path):
    seen = summary(tmp_path / "seen" / "summary.json", drive__vessel=0.78, hrf__vessel=0.76)
    left = summary(tmp_path / "left" / "summary.json", drive__vessel=0.75, hrf__vessel=0.77)
    assert main([*inputs, "--seen", str(seen.parent), "--left-out", f"drive={left.parent}"]) == 0
    assert "| drive | 11 | 0.780 | 0.750 | -0.030 | +0.010 |" in (tmp_path / "table.md").read_text()


def test_a_report_of_other_images_is_refused(inputs, tmp_path, capsys):
    seen = summary(tmp_path / "seen" / "summary.json", hrf__vessel=0.76)
    assert main([*inputs, "--seen", str(seen.parent), "--left-out", f"drive={seen.parent}"]) == 1
    assert "drive: the reports have no vessel" in capsys.readouterr().err
    assert not (tmp_path / "table.md").exists()


def test_a_file_without_scores_is_named(inputs, tmp_path, capsys):
    (tmp_path / "cfp.json").write_text("{}")
    assert main(inputs) == 1
    assert "cfp.json: holds no summary of scores" in capsys.readouterr().err
