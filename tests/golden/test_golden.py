"""The shipped bundle gives the masks and the numbers that it gave before.

The stored answers are of the photograph that scikit-image ships (CC0) and of the synthetic volume. Processors and
versions of torch round differently, so a few pixels may differ; more is a change of the result. When it is right to
store new answers is said in `tests.golden.make`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from tests.golden.cases import CASES, KEY, Answer, answer, dice, shipped, stored

pytestmark = pytest.mark.slow
LEAST_DICE = 0.995


@pytest.fixture(scope="module")
def answered(networks: None) -> Callable[[str], Answer]:
    """What comes out now, by the name of the case; each runs once."""
    pipeline = shipped()
    return functools.cache(lambda name: answer(pipeline, CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_masks_are_those_that_are_stored(answered: Callable[[str], Answer], name: str) -> None:
    now, before = answered(name).masks, stored(name).masks
    assert list(now) == list(before)
    assert sum(mask.any() for mask in before.values()) >= 2, "nothing would be compared"
    # Of very small masks a single pixel is more than the tolerance.
    other = {key: round(dice(mask, before[key]), 4) for key, mask in now.items()
             if dice(mask, before[key]) < LEAST_DICE and np.count_nonzero(mask ^ before[key]) > 1}
    assert other == {}


@pytest.mark.parametrize("name", CASES)
def test_measurements_are_those_that_are_stored(answered: Callable[[str], Answer], name: str) -> None:
    """Of every measure that is stored: the same rows, and values within one per cent."""
    now, before = answered(name).measurements, stored(name).measurements
    known = now[now["measure"].isin(before["measure"])]
    found, expected = (table.set_index(KEY)["value"].sort_index() for table in (known, before))
    assert list(found.index) == list(expected.index) and len(expected) > 5
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=1e-3)


def test_doubtful_places_of_the_volume_are_those_that_are_stored(answered: Callable[[str], Answer]) -> None:
    where = ["slice", "structure", "reason"]
    found, expected = (table.sort_values([*where, "severity"]) for table in (answered("volume").doubts,
                                                                             stored("volume").doubts))
    assert found[where].values.tolist() == expected[where].values.tolist() and len(expected) > 5
    np.testing.assert_allclose(found["severity"], expected["severity"], atol=0.01)
