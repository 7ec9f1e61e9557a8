"""Thresholds separate, and a pair whose mask ignores the text is found out."""

from __future__ import annotations

from training.choose_thresholds import choose, presence_threshold, told_apart
from training.export import is_answered


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


def test_presence_threshold_keeps_95_percent_and_is_the_highest_that_does() -> None:
    scores = [0.123, *(0.51 + k / 100 for k in range(24))]
    assert presence_threshold(scores) == 0.51  # 24 of 25
    assert presence_threshold(scores[:12]) == 0.12  # of 12 none may be lost
    assert presence_threshold([0.999] * 4) == 0.99 and presence_threshold([0.004] * 4) == 0.0


def test_the_setting_nearest_to_neutral_wins_among_equals() -> None:
    found = [{"presence": 0.8, "present": True, "1.0/0.3": 0.700, "1.0/0.5": 0.699, "0.5/0.5": 0.4} for _ in range(3)]
    chosen = choose(found)
    assert (chosen["threshold"], chosen["text_weight"]) == (0.5, 1.0)


def test_a_bundle_answers_only_what_it_can_call_absent() -> None:
    good = {"dice_held_out": 0.5, "told_apart": True, "n_held_out": 8, "n_absent_held_out": 20, "n_inner": 12,
            "n_outer": 8}
    assert is_answered(good)
    assert not is_answered(good | {"n_inner": 20}), "found in 12 of 20 images without it"
    assert not is_answered(good | {"n_held_out": 3}), "too few to fit the presence"
    assert is_answered(good | {"n_held_out": 3, "n_absent_held_out": 0}), "every image shows it: nothing to fit"
    assert not is_answered(good | {"dice_held_out": 0.2}) and not is_answered(good | {"told_apart": False})
