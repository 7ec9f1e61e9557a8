"""The tables of the model card."""

from __future__ import annotations

from training.report.model_card import box_rows, score_rows


def test_false_alarms_are_shown_where_no_image_has_the_target() -> None:
    absent = {"dataset": "hrf", "target": "haemorrhage", "n_present": 0, "n_absent": 2, "dice": None, "dice_low": None,
              "dice_high": None, "false_positive_rate": 0.5}
    found = {"dataset": "idrid", "target": "haemorrhage", "n_present": 9, "n_absent": 0, "dice": 0.4567,
             "dice_low": 0.4, "dice_high": 0.5}
    assert score_rows([absent, found]).splitlines()[2:] == [
        "| hrf | haemorrhage | 0 |  |  | 2 | 50% |",
        "| idrid | haemorrhage | 9 | 0.457 | 0.40 to 0.50 | 0 |  |"]


def test_boxes_are_reported_with_what_is_unknown_left_empty() -> None:
    known = {"objects": 4, "ap50": 0.251, "recall": 0.5, "precision": 1.0, "views_present": 3, "views_absent": 8,
             "false_positive_rate": 0.125, "presence_auroc": 0.96}
    never_absent = known | {"views_absent": 0, "false_positive_rate": None, "presence_auroc": None}
    assert box_rows({"oct/drusen": known, "cfp/optic_disc": never_absent}).splitlines()[-2:] == [
        "| cfp | optic_disc | 4 | 0.25 | 0.50 | 1.00 | 0 |  |  |",
        "| oct | drusen | 4 | 0.25 | 0.50 | 1.00 | 8 | 12% | 0.96 |"]
    assert box_rows({}) == "Not measured for this bundle."
