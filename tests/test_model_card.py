"""The table of the model card."""

from __future__ import annotations

from training.model_card import score_rows


def test_false_alarms_are_shown_where_no_image_has_the_target() -> None:
    absent = {"dataset": "hrf", "target": "haemorrhage", "n_present": 0, "n_absent": 2, "dice": None, "dice_low": None,
              "dice_high": None, "false_positive_rate": 0.5}
    found = {"dataset": "idrid", "target": "haemorrhage", "n_present": 9, "n_absent": 0, "dice": 0.4567,
             "dice_low": 0.4, "dice_high": 0.5}
    assert score_rows([absent, found]).splitlines()[2:] == [
        "| hrf | haemorrhage | 0 |  |  | 2 | 50% |",
        "| idrid | haemorrhage | 9 | 0.457 | 0.40 to 0.50 | 0 |  |"]
