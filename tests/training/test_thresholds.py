"""Thresholds separate, and a pair whose mask ignores the text is found out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from napari_claps.errors import InputError
from training.choose import pairs as pairs_module
from training.choose import thresholds
from training.choose.pairs import is_answered, read_pairs, refuse
from training.choose.thresholds import choose, presence_threshold, read_rows, told_apart
from training.run.command import run_command


def rows(**by_text: float) -> list[dict]:
    return [{"presence": 0.9, "present": True, "by_text": by_text}]


def test_a_text_that_changes_nothing_is_dropped_and_the_others_stay() -> None:
    gains = told_apart({
        "vessel": rows(vessel=0.80, artery=0.78, vein=0.79), "artery": rows(vessel=0.52, artery=0.53, vein=0.52),
        "vein": rows(vessel=0.55, artery=0.55, vein=0.56),
    })
    assert set(gains) == {"vessel"} and gains["vessel"] is None  # alone at its scale: nothing to compare with


def test_texts_that_matter_all_stay() -> None:
    gains = told_apart({"disc": rows(disc=0.95, cup=0.7), "cup": rows(disc=0.6, cup=0.85)})
    assert gains == {"disc": 0.25, "cup": 0.25}


def test_presence_threshold_separates() -> None:
    found = [{"presence": 0.8, "present": True, "1.0/0.5": 0.7} for _ in range(5)]
    found += [{"presence": 0.1, "present": False} for _ in range(5)]
    chosen = choose(found)
    assert 0.1 < chosen["presence"] <= 0.8 and chosen["threshold"] == 0.5
    assert "presence" not in choose(found[:6])


def test_patients_are_counted_where_they_are_known() -> None:
    found = [{"presence": 0.8, "present": k < 4, "1.0/0.5": 0.7, "patient": f"p{k % 2}"} for k in range(6)]
    assert choose(found)["n_patients_held_out"] == 2 and choose(found)["n_held_out"] == 4
    assert "n_patients_held_out" not in choose([{k: v for k, v in r.items() if k != "patient"} for r in found])


def test_presence_threshold_keeps_95_percent_and_is_the_highest_that_does() -> None:
    scores = [0.123, *(0.51 + k / 100 for k in range(24))]
    assert presence_threshold(scores) == 0.51  # 24 of 25
    assert presence_threshold(scores[:12]) == 0.12  # of 12 none may be lost
    assert presence_threshold([0.999] * 4) == 0.99 and presence_threshold([0.004] * 4) == 0.0


def test_the_setting_nearest_to_neutral_wins_among_equals() -> None:
    found = [{"presence": 0.8, "present": True, "1.0/0.3": 0.700, "1.0/0.5": 0.699, "0.5/0.5": 0.4} for _ in range(3)]
    chosen = choose(found)
    assert (chosen["threshold"], chosen["text_weight"]) == (0.5, 1.0)


def test_boxes_get_a_share_only_where_they_gain_more_than_the_standard_error() -> None:
    def chosen(*gains: float) -> float:
        return choose([{"presence": 0.9, "present": True, "1.0/0.5": 0.6, "0.5/0.5": 0.6 + gain}
                       for gain in gains])["text_weight"]

    assert chosen(0.02, 0.03, 0.02) == 0.5
    assert chosen(0.2, -0.08, -0.05) == 1.0, "better in the mean, by one image"
    assert chosen(-0.02, -0.03, -0.02) == 1.0


def test_a_bundle_answers_only_what_it_can_call_absent() -> None:
    good = {"dice_held_out": 0.5, "told_apart": True, "n_held_out": 8, "n_absent_held_out": 20, "n_inner": 12,
            "n_outer": 8}
    assert is_answered(good)
    assert not is_answered(good | {"n_inner": 20}), "found in 12 of 20 images without it"
    assert not is_answered(good | {"n_held_out": 3}), "too few to fit the presence"
    assert not is_answered(good | {"n_patients_held_out": 3}), "eight images of three patients"
    assert is_answered(good | {"n_held_out": 3, "n_absent_held_out": 0}), "every image shows it: nothing to fit"
    assert not is_answered(good | {"dice_held_out": 0.2}) and not is_answered(good | {"told_apart": False})


def test_a_pair_can_be_refused_by_name() -> None:
    pairs = [{"modality": "oct", "target": "drusen"}, {"modality": "cfp", "target": "vessel"}]
    assert refuse(pairs, ["oct/drusen"]) == pairs[1:] and refuse(pairs, []) == pairs
    with pytest.raises(InputError, match=r"--refuse oct/druse: no such pair\. There are: cfp/vessel, oct/drusen\."):
        refuse(pairs, ["oct/druse"])


def test_the_threshold_comes_from_the_rows_of_all_folds(tiny_bundle: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold alone is too small for one; pairs that no fold measured stay as they were."""
    for module in (thresholds, pairs_module):
        monkeypatch.setattr(module, "trained_pairs", dict)
    for k, low, high in ((1, 0.80, 0.70), (2, 0.70, 0.72)):
        row = {"presence": 0.9, "present": True, "1.0/0.3": low, "1.0/0.5": high}
        (tmp_path / f"{k}.rows.json").write_text(json.dumps({"cfp/vessel": [row]}))
    earlier = [{"modality": "cfp", "target": "vessel", "threshold": 0.6},
               {"modality": "oct", "target": "drusen", "threshold": 0.4, "calibration": {"offset": 1.0}}]
    (tmp_path / "old.json").write_text(json.dumps({"pairs": earlier}))
    monkeypatch.setattr(sys, "argv", [
        "thresholds", "--bundle", str(tiny_bundle), "--rows", str(tmp_path / "1.rows.json"),
        "--rows", str(tmp_path / "2.rows.json"), "--pairs", str(tmp_path / "old.json"),
        "--out", str(tmp_path / "p.json")])
    thresholds.main()
    vessel, drusen = json.loads((tmp_path / "p.json").read_text())["pairs"]
    assert (vessel["threshold"], vessel["dice_held_out"], vessel["n_held_out"]) == (0.3, 0.75, 2)
    assert drusen == earlier[1]


def test_what_is_no_file_of_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    for name in ("a.json", "missing.json"):
        with pytest.raises(InputError, match=rf"{name}: is no \.rows\.json of training\.choose\.thresholds"):
            read_rows([tmp_path / name])


def test_what_is_no_file_of_pairs_is_named_without_a_traceback(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.json").write_text('{"pairs": [{"target": "vessel"}]}')
    for name in ("pairs.json", "missing.json"):
        assert run_command(lambda name=name: read_pairs(tmp_path / name)) == 1
        assert f"{name}: is no pairs.json of training.choose.thresholds" in capsys.readouterr().err
    assert run_command(lambda: None) == 0
