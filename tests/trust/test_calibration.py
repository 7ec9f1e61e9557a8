"""From scores to probabilities: monotone, finite, and right where the truth is known."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from napari_claps.errors import InputError
from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.calibration import (
    INPUTS,
    calibrated_presence,
    calibration_error,
    fit_calibration,
    log_loss,
    presence_inputs,
)
from napari_claps.types import Modality
from training.choose import calibrate as calibrate_module
from training.choose.calibrate import EVEN, UNLIKELY, absent_below, calibrate, choose_calibration, cross_validated
from training.choose.observations import Observation, read_observations, write_observations

unit = st.floats(0, 1)
PATIENTS = itertools.count()
"""Each observation is of another one unless it is said."""


def pixels(highest: float, mean: float | None = None) -> np.ndarray:
    """Probabilities (y, x) with this highest value and mean."""
    values = np.full((4, 25), highest if mean is None else (100 * mean - highest) / 99, np.float32)
    values[0, 0] = highest
    return values


@given(st.lists(st.tuples(unit, unit, st.booleans()), min_size=4, max_size=30), unit, unit, st.floats(0, 0.5))
def test_a_higher_score_never_makes_a_target_less_likely(rows: list, presence: float, highest: float,
                                                         more: float) -> None:
    rows = [*rows, (0.4, 0.6, True), (0.6, 0.4, False)]
    inputs = [presence_inputs(p, pixels(h)) for p, h, _ in rows]
    names = ("presence", "mask", "area")
    fitted = fit_calibration({n: [i[n] for i in inputs] for n in names}, [there for *_, there in rows])
    assert all(np.isfinite(v) for v in fitted.values()) and all(fitted[n] >= 0 for n in names)
    low = calibrated_presence(fitted, presence_inputs(presence, pixels(highest)))
    for p, h in ((min(presence + more, 1), highest), (presence, min(highest + more, 1))):
        assert 0 <= low <= calibrated_presence(fitted, presence_inputs(p, pixels(h))) + 1e-12 <= 1 + 1e-9


def test_a_known_curve_is_found_again() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(4000)
    inputs = [presence_inputs(s, pixels(0.5)) for s in scores]
    truth = np.array([expit(0.8 * i["presence"] - 1) for i in inputs])
    present = rng.random(4000) < truth
    fitted = fit_calibration({"presence": [i["presence"] for i in inputs]}, present)
    found = np.array([calibrated_presence(fitted, i) for i in inputs])
    assert np.abs(found - truth).mean() < 0.03
    error, groups = calibration_error(found, present)
    assert error < 0.03 and sum(g["n"] for g in groups) == 4000 and len(groups) == 5
    raw, _ = calibration_error(scores, present)
    assert raw > 3 * error


def test_classes_that_one_score_separates_give_a_finite_fit() -> None:
    fitted = fit_calibration({"presence": [-3.0, -2.0, 2.0, 3.0]}, [False, False, True, True])
    low, high = (calibrated_presence(fitted, dict.fromkeys(INPUTS, 0.0) | {"presence": v}) for v in (-2, 2))
    assert 0 < low < 0.5 < high < 1


def test_inputs() -> None:
    inputs = presence_inputs(0.5, pixels(1.0, 0.25), [(0, 0, 5, 5, 0.3), (1, 1, 4, 4, 0.6)])
    assert set(inputs) == set(INPUTS)
    assert inputs["presence"] == 0 and inputs["box"] == 0.6 and np.isfinite(inputs["mask"])
    assert inputs["area"] == pytest.approx(np.log(0.25), abs=0.01)
    nothing = presence_inputs(0, pixels(0.0))
    assert nothing["box"] == 0 and np.isfinite(nothing["area"])
    larger = presence_inputs(0.5, pixels(1.0, 0.5))
    assert larger["area"] > inputs["area"] and larger["mask"] == inputs["mask"], "same peak, more of it"


def test_error_of_a_forecast_that_is_always_wrong_and_ties_stay_together() -> None:
    error, groups = calibration_error([0.9] * 10, [False] * 10)
    assert error == pytest.approx(0.9) and len(groups) == 1
    assert log_loss([1.0, 0.0], [False, True]) == pytest.approx(-np.log(1e-6))
    assert calibration_error([0.0, 1.0], [False, True])[0] == 0


def seen(presence: float, highest: float, box: float, there: bool, mean: float | None = None,
         patient: str = "") -> Observation:
    inputs = presence_inputs(presence, pixels(highest, mean), [(0, 0, 1, 1, box)] if box else [])
    curve = np.zeros(3)
    return Observation(there, inputs, curve if there else None, curve, patient or f"patient {next(PATIENTS)}")


def rows(n: int, informative: str, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        there = k % 3 == 0
        noise = {"presence": rng.uniform(0.4, 0.6), "highest": rng.uniform(0.4, 0.6), "box": rng.uniform(0.2, 0.4),
                 "mean": rng.uniform(0.1, 0.3)}
        noise[informative] = float(np.clip(rng.normal(0.75 if there else 0.3, 0.12), 0.01, 0.99))
        noise["mean"] = float(np.exp(5 * noise["mean"] - 4))  # shares of a slice differ by factors
        made.append(seen(**noise, there=there))
    return made


@pytest.mark.parametrize(("informative", "name"), [("presence", "presence"), ("highest", "mask"), ("box", "box"),
                                                      ("mean", "area")])
def test_the_input_that_knows_is_taken_alone(informative: str, name: str) -> None:
    calibration, quality = choose_calibration(rows(45, informative))
    assert set(calibration) == {"offset", name} and calibration[name] > 0
    assert quality["presence_log_loss"] < quality["prevalence_log_loss"] / 1.5


def test_what_is_unlikely_is_called_absent_where_images_without_it_can_tell() -> None:
    assert calibrate({"threshold": 0.5, "presence": 0.9}, rows(60, "presence"))["presence"] == UNLIKELY
    assert absent_below([0.9] * 4, 9) == UNLIKELY, "the fit can give 1 / 11"
    assert absent_below([0.9] * 4, 8) == EVEN and absent_below([0.3] * 4, 8) == 0.3


def test_few_images_keep_those_with_the_target_and_never_exceed_even_odds() -> None:
    observed = [o for k, o in enumerate(rows(36, "presence")) if k % 3 == 0 or k % 9 == 1]  # 12 with, 4 without
    made = calibrate({"threshold": 0.5, "presence": 0.9, "min_area": 4}, observed)
    probability = [calibrated_presence(made["calibration"], o.inputs) for o in observed if o.present]
    assert np.mean(np.array(probability) >= made["presence"]) >= 0.95 and 0 < made["presence"] <= EVEN


def test_without_absent_images_the_score_stays_a_score() -> None:
    observed = [seen(0.9, 0.9, 0, True) for _ in range(12)]
    made = calibrate({"threshold": 0.5, "presence": 0.3}, observed)
    assert "calibration" not in made and made["presence"] == 0.3 and made["n_outer"] == 12
    again = calibrate({"threshold": 0.5, "presence": 0.3, "calibration": {"offset": 1.0}}, observed)
    assert "calibration" not in again and again["presence"] == 0, "a probability is no threshold for a score"


def test_an_absent_answer_counts_as_missed() -> None:
    observed = [seen(0.9, 0.9, 0, True)] * 20 + [seen(0.01, 0.9, 0, True)] * 20
    kept = calibrate({"threshold": 0.5, "presence": 0.0}, observed)
    gated = calibrate({"threshold": 0.5, "presence": 0.5}, observed)
    assert set(kept["outer"]) == {"0.8", "0.9", "0.95"} and not gated["outer"]
    assert (kept["n_inner"], gated["n_inner"]) == (40, 20) and set(gated["inner"]) == set(kept["inner"])


def test_too_few_images_give_only_what_they_can() -> None:
    made = calibrate({"threshold": 0.5, "presence": 0.0}, [seen(0.9, 0.9, 0, True)] * 10)
    assert set(made["outer"]) == set(made["inner"]) == {"0.8", "0.9"}
    assert not calibrate({"threshold": 0.5, "presence": 0.0}, [seen(0.9, 0.9, 0, True)] * 3)["outer"]


def test_no_image_is_judged_by_a_calibration_that_has_seen_its_patient() -> None:
    """Every patient has one score, of which nothing follows for the others: only who knows the patient is sure."""
    rng = np.random.default_rng(3)
    inputs, present, patients = [], [], []
    for patient in range(12):
        score, there = float(rng.uniform(-1, 1)), patient % 2 == 0
        for _ in range(5):
            inputs.append({"presence": score})
            present.append(there)
            patients.append(f"p{patient}")
    by_patient = cross_validated(inputs, present, patients)
    assert len({(p, round(v, 9)) for p, v in zip(patients, by_patient, strict=True)}) == 12, "all of one at once"
    alone = cross_validated(inputs, present, [str(k) for k in range(60)])
    assert log_loss(by_patient, present) > log_loss(alone, present)


PAIR = {(Modality.OCT, "drusen"): Pair(modality=Modality.OCT, target="drusen", threshold=0.5)}


def test_observations_of_the_folds_come_back_and_are_calibrated_on_together(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = rows(60, "presence")
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    write_observations(files[0], {(Modality.OCT, "drusen"): observed[:30]}, PAIR)
    write_observations(files[1], {(Modality.OCT, "drusen"): observed[30:]}, PAIR)
    again = read_observations(files, PAIR)[Modality.OCT, "drusen"]
    assert [(o.present, o.patient) for o in again] == [(o.present, o.patient) for o in observed]
    assert [o.inputs for o in again] == [dict(o.inputs) for o in observed]
    assert all((a.missed is None) == (b.missed is None) for a, b in zip(again, observed, strict=True))
    assert read_observations(files, {}) == {}

    pair = {"modality": "oct", "target": "drusen", "threshold": 0.5, "presence": 0.0, "min_area": 4}
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps({"pairs": [pair]}))
    given = [argument for file in files for argument in ("--observed", str(file))]
    monkeypatch.setattr(sys, "argv", ["calibrate", "--pairs", str(pairs), *given])
    calibrate_module.main()
    assert json.loads(pairs.read_text())["pairs"] == [calibrate(pair, observed)]
    monkeypatch.setattr(sys, "argv", ["calibrate", "--pairs", str(pairs)])
    with pytest.raises(SystemExit):
        calibrate_module.main()


def test_observations_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_observations(tmp_path / "a.json", {(Modality.OCT, "drusen"): rows(3, "presence")}, PAIR)
    other = {key: Pair(modality=Modality.OCT, target="drusen", threshold=0.4) for key in PAIR}
    with pytest.raises(InputError, match=r"a\.json: oct/drusen was observed at the threshold 0\.5, .* say 0\.4"):
        read_observations([tmp_path / "a.json"], other)
    (tmp_path / "b.json").write_text('{"oct/drusen": [1]}')
    for name in ("b.json", "missing.json"):
        with pytest.raises(InputError, match=rf"{name}: was not written by training\.choose\.calibrate --out"):
            read_observations([tmp_path / name], PAIR)
