"""Name and colour of a label, the same in the viewer, in tables and in exported files."""

from __future__ import annotations

import colorsys
import zlib

from napari_claps.words.vocabulary import TARGETS


def shown_name(label: str) -> str:
    """Name of a target for people; free text stays as it is.

    Examples
    --------
    >>> shown_name("optic_disc"), shown_name("dark spots")
    ('optic disc', 'dark spots')
    """
    return TARGETS[label].name if label in TARGETS else label


def label_colour(label: str) -> tuple[int, int, int]:
    """RGB of a target in 0..255, as the vocabulary has it; of free text one that its letters fix."""
    if label in TARGETS:
        return TARGETS[label].colour
    r, g, b = colorsys.hsv_to_rgb(zlib.crc32(label.encode()) % 360 / 360, 0.65, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)
