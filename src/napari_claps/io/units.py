"""Lengths in the units that image files use.

A table of ours and not pint, which napari's units are of: what a file says is no expression to be evaluated, pint takes
``"px"`` for 1/96 inch and ``"point"`` for a length, and a pixel size that nobody measured is worse than none. The tests
compare the table with pint.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MM_PER: Mapping[str, float] = MappingProxyType({
    "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6, "å": 1e-7,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "micrometre": 1e-3,
    "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0,
    "m": 1000.0, "meter": 1000.0, "metre": 1000.0,
    "inch": 25.4, "inches": 25.4, "in": 25.4,
})  # fmt: skip
"""Millimetres per unit; both Unicode letters for micro, and the way ImageJ escapes it."""


def mm_per(unit: str | None) -> float | None:
    """Return the millimetres in one `unit`, or None when the unit is no length (``"pixel"``)."""
    return MM_PER.get((unit or "").strip().lower())
