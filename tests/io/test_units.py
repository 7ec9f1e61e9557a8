"""Units of length: the table says what pint says, and takes nothing for a length that is none in an image file."""

from __future__ import annotations

import pint
import pytest

from napari_claps.io.units import MM_PER, mm_per

ONLY_OURS = {"å", "\\u00b5m"}
"""Spellings of files that pint does not know."""


@pytest.mark.parametrize("unit", sorted(MM_PER.keys() - ONLY_OURS))
def test_the_table_agrees_with_pint(unit: str) -> None:
    assert mm_per(unit) == pytest.approx(pint.get_application_registry().Quantity(1, unit).m_as("mm"), rel=1e-12)


def test_capitals_and_blanks_do_not_matter() -> None:
    assert mm_per(" MM ") == 1 and mm_per("\u00c5") == 1e-7


@pytest.mark.parametrize("unit", ["pixel", "px", "point", "pt", "", None, "9**9**9", "second"])
def test_what_is_no_length_of_an_image(unit: str | None) -> None:
    assert mm_per(unit) is None
