"""Colours and font of the pictures."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

Colour = tuple[int, int, int]

BACKGROUND: Colour = (22, 24, 29)
INK: Colour = (236, 238, 242)
FAINT: Colour = (142, 148, 160)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font inside Pillow: the same picture on every machine."""
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont), "a size asks for the outlines, which Pillow's wheels can draw"
    return face


def drawable(text: str) -> str:
    """Return a text in the letters of the font, which has few beyond ASCII, instead of empty boxes.

    Examples
    --------
    >>> drawable("Müller – 3 mm²")
    'Muller - 3 mm2'
    """
    return "".join(_drawable(character) for character in text)


@cache
def _drawable(character: str) -> str:
    if _has(character):
        return character
    if unicodedata.category(character) == "Pd":  # a dash
        return "-"
    if character in "\u00b5\u03bc":  # micro
        return "u"
    parts = unicodedata.normalize("NFKD", character)
    return "".join(c for c in parts if _has(c)) or ("" if unicodedata.combining(character) else "?")


def _has(character: str) -> bool:
    """Whether the font draws the character: what it lacks looks like what is no character."""
    face = font(20)
    return bytes(face.getmask(character)) != bytes(face.getmask("\U0010ffff"))
