"""Colours and font of the pictures."""

from __future__ import annotations

from PIL import ImageFont

Colour = tuple[int, int, int]

BACKGROUND: Colour = (22, 24, 29)
INK: Colour = (236, 238, 242)
FAINT: Colour = (142, 148, 160)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font inside Pillow: the same picture on every machine."""
    return ImageFont.load_default(size)
