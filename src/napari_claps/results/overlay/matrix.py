"""A matrix of numbers as a labelled picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from napari_claps.results.overlay.legend import wrap
from napari_claps.results.overlay.style import BACKGROUND, FAINT, INK, Colour, drawable, font

CELL = (76, 40)
"""Width and height of a cell in pixels."""
MARGIN = 18
NARROWEST = 620
"""Least width in pixels, for title and caption."""
LOW: Colour = (38, 42, 52)
HIGH: Colour = (236, 190, 72)
MARK: Colour = (255, 82, 70)


def matrix_picture(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str = "",
                   caption: str = "", marked: np.ndarray | None = None) -> np.ndarray:
    """Draw a matrix with numbers, and colours from dark (0) to light (1).

    Parameters
    ----------
    values : ndarray
        (R, C) float in [0, 1]; NaN is shown as a dash.
    rows, columns : sequence of str
        R and C labels.
    title, caption : str
        Above and below; wrapped.
    marked : ndarray, optional
        (R, C) bool, cells that get a frame.

    Returns
    -------
    ndarray
        (y, x, 3) uint8 RGB.
    """
    face, small, large = font(15), font(13), font(18)
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    rows, columns = [drawable(name) for name in rows], [drawable(name) for name in columns]
    left = MARGIN + int(max(scratch.textlength(r, font=face) for r in rows)) + 10
    names = [_upright(name) for name in columns]
    width = max(left + CELL[0] * len(columns) + MARGIN, NARROWEST)
    heading = wrap(scratch, title, large, width - 2 * MARGIN) if title else []
    footer = wrap(scratch, caption, small, width - 2 * MARGIN) if caption else []
    top = MARGIN + 26 * len(heading) + 8 + max(name.height for name in names) + 6
    bottom = top + CELL[1] * len(rows)
    picture = Image.new("RGB", (width, bottom + 12 + 19 * len(footer) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(heading):
        draw.text((MARGIN, MARGIN + 26 * number), line, font=large, fill=INK)
    for column, name in enumerate(names):
        picture.paste(name, (left + CELL[0] * column + (CELL[0] - name.width) // 2, top - 6 - name.height))
    for row, label in enumerate(rows):
        middle = top + CELL[1] * row + CELL[1] // 2
        draw.text((left - 10, middle), label, font=face, fill=INK, anchor="rm")
        for column in range(len(columns)):
            x, y = left + CELL[0] * column, top + CELL[1] * row
            value = values[row, column]
            colour = LOW if np.isnan(value) else _mix(float(value))
            draw.rectangle((x, y, x + CELL[0] - 3, y + CELL[1] - 3), fill=colour)
            if marked is not None and marked[row, column]:
                draw.rectangle((x, y, x + CELL[0] - 3, y + CELL[1] - 3), outline=MARK, width=3)
            ink = FAINT if np.isnan(value) else BACKGROUND if value > 0.5 else INK
            text = "-" if np.isnan(value) else f"{value:.2f}"
            draw.text((x + CELL[0] // 2, middle), text, font=face, fill=ink, anchor="mm")
    for number, line in enumerate(footer):
        draw.text((MARGIN, bottom + 12 + 19 * number), line, font=small, fill=FAINT)
    return np.asarray(picture)


def _upright(text: str) -> Image.Image:
    """The text of a column, read from below."""
    face = font(15)
    x0, y0, x1, y1 = face.getbbox(text)
    strip = Image.new("RGB", (max(1, int(x1 - x0)), max(1, int(y1 - y0))), BACKGROUND)
    ImageDraw.Draw(strip).text((-x0, -y0), text, font=face, fill=INK)
    return strip.rotate(90, expand=True)


def _mix(value: float) -> Colour:
    share = min(max(value, 0.0), 1.0)
    r, g, b = (round(low + share * (high - low)) for low, high in zip(LOW, HIGH, strict=True))
    return r, g, b
