"""Doubtful places of a linked volume: what is listed, in which order, and the file of them."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_claps.errors import OutputError
from napari_claps.results.tables import write_doubts
from napari_claps.synthetic import synthetic_oct
from napari_claps.volumes.doubts import Reason, doubtful_places
from napari_claps.volumes.linking import MM_RULE, PIXEL_RULE
from tests.linked_slices import FLUID, SPACING, links_of, pocket, results_of, with_flicker


def doubts_of(volume, *, label=FLUID, spacing=SPACING, slices=None, **more):
    return doubtful_places(links_of(results_of({label: volume}, slices=slices, **more), spacing))


def test_a_regular_volume_has_no_doubts():
    assert doubts_of(pocket()) == []
    z, y, x = np.ogrid[-6:7, -20:21, -30:31]
    ellipsoid = (z / 5.5) ** 2 + (y / 18) ** 2 + (x / 28) ** 2 <= 1
    assert doubts_of(ellipsoid) == [], "an ellipsoid grows fast at its ends"
    eye = synthetic_oct(shape=(12, 192, 200), spacing=(0.24, 0.006, 0.02), seed=3)
    assert doubts_of(eye.truth["retina"], label="retina", spacing=eye.image.spacing) == []


def test_single_slice_is_listed_also_when_it_is_sure():
    (doubt,) = doubts_of(pocket(z=(4, 5), centre=(10, 40), radius=10), score=0.95)
    assert (doubt.reason, doubt.slice_index, doubt.label, doubt.instance) == (Reason.SINGLE_SLICE, 4, FLUID, 1)
    assert doubt.position == pytest.approx((4, 10, 40))
    assert doubt.severity == pytest.approx(0.05)
    assert doubts_of(pocket(z=(4, 5)), spacing=(1.0, 0.004, 0.011)) == [], "neighbours 1 mm away prove nothing"


def test_removed_flicker_is_listed():
    (doubt,) = doubts_of(with_flicker(), score=0.6, presence=0.1)
    assert (doubt.reason, doubt.slice_index, doubt.instance) == (Reason.REMOVED, 4, 0)
    assert doubt.position == pytest.approx((4, 7.5, 7.5))
    assert doubt.severity == pytest.approx(0.6 * 36 * SPACING[1] * SPACING[2] / MM_RULE.small)


def test_specks_come_last_or_not_at_all():
    """In a single slice an object smaller than the rule's smallest one is less severe, in proportion to its area."""
    volume = pocket(z=(4, 5), centre=(10, 12), radius=9) | pocket(z=(4, 5), centre=(30, 45), radius=3)
    volume |= pocket(z=(4, 5), centre=(6, 50), radius=1)
    large, speck = doubts_of(volume, score=0.4)
    assert large.position[1] == pytest.approx(10) and large.severity == pytest.approx(0.6)
    assert speck.severity == pytest.approx(0.6 * 29 * SPACING[1] * SPACING[2] / MM_RULE.small)
    assert doubts_of(volume, score=0.4, spacing=None)[1].severity == pytest.approx(0.6 * 29 / PIXEL_RULE.small)


def test_jump_of_area_is_listed_once():
    outlier = pocket(shape=(10, 80, 90), z=(1, 9), centre=(40, 45), radius=7)
    outlier[5] |= pocket(shape=(10, 80, 90), centre=(40, 45), radius=25)[5]
    (doubt,) = doubts_of(outlier)
    assert (doubt.reason, doubt.slice_index, doubt.instance) == (Reason.AREA_JUMP, 5, 1)
    assert 0.9 < doubt.severity < 0.95
    step = pocket(shape=(10, 80, 90), z=(1, 5), centre=(40, 45), radius=7)
    step |= pocket(shape=(10, 80, 90), z=(5, 9), centre=(40, 45), radius=25)
    assert [(d.reason, d.slice_index) for d in doubts_of(step)] == [(Reason.AREA_JUMP, 5)]


def test_what_misses_between_neighbours_is_listed():
    volume = pocket()
    volume[4] = 0
    (doubt,) = doubts_of(volume, score=0.8)
    assert (doubt.reason, doubt.slice_index, doubt.instance) == (Reason.MISSING, 4, 1)
    assert doubt.position == pytest.approx((4, 20, 30))
    assert doubt.severity == pytest.approx(0.8)
    assert doubts_of(volume, slices=[1, 2, 3, 5, 6], score=0.8) == [], "slice 4 was not looked at"


def test_disagreement_of_presence_is_listed():
    (doubt,) = doubts_of(pocket(), presence=lambda k: 0.2 if k == 3 else 0.9)
    assert (doubt.reason, doubt.slice_index, doubt.instance) == (Reason.DISAGREEMENT, 3, 0)
    assert doubt.severity == pytest.approx(0.7)
    assert doubt.position == pytest.approx((3, 20, 30))
    hole = pocket(z=(0, 3), centre=(10, 10)) | pocket(z=(4, 8), centre=(30, 50))
    assert [(d.reason, d.slice_index, d.severity) for d in doubts_of(hole)] == [(Reason.DISAGREEMENT, 3, 0.5)]


def test_doubts_come_most_severe_first_and_go_to_a_file(tmp_path):
    volume = pocket() | pocket(z=(4, 5), centre=(8, 8), radius=5)
    volume[3] = 0
    doubts = doubts_of(volume, score=0.8)
    assert [d.reason for d in doubts] == [Reason.MISSING, Reason.SINGLE_SLICE]
    write_doubts(doubts, tmp_path / "doubts.csv")
    with (tmp_path / "doubts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"slice": "4", "structure": FLUID, "instance": str(doubts[1].instance), "reason": "single slice",
                       "severity": "0.071", "z": "4.0", "y": "8.0", "x": "8.0"}
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_doubts(doubts, tmp_path / "file" / "doubts.csv")
