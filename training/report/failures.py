"""Pictures of the worst masks: beside the photograph, for the eyes of those who have it, and as maps to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.data.records import Record

AGREED, MISSED, FALSE = (0, 158, 115), (230, 159, 0), (204, 121, 167)
"""Green, orange and purple of Okabe and Ito, which everybody can tell apart."""
WHITE = (255, 255, 255)
CAPTION = 26
"""Height of the line of text in pixels."""
FAINT = (60, 60, 60)
SHOWN = ("idrid", "kermany")
"""Data sets under CC BY 4.0 from their authors: maps made of their annotations may be passed on."""
CELL = 230
"""Width and height of a map in pixels."""


@dataclass(frozen=True, eq=False)
class Failure:
    """A target of an image, to be drawn when it is among the worst."""

    dice: float
    record: Record
    predicted: np.ndarray
    truth: np.ndarray

    def __lt__(self, other: Failure) -> bool:  # the heap drops the best one first
        return self.dice > other.dice


def draw_failure(failure: Failure, target: str, *, side: int = 800) -> Image.Image:
    """The part of the image that matters, beside the same with agreed, missed and false pixels coloured."""
    with Image.open(failure.record.image) as file:
        plain = file.convert("RGB")
    canvas = np.asarray(plain.convert("L").convert("RGB"), dtype=np.float32).copy()
    for mask, colour in _coloured(failure):
        canvas[mask] = 0.2 * canvas[mask] + 0.8 * np.array(colour, dtype=np.float32)
    window = _window(failure.predicted | failure.truth)
    parts = [part.crop(window) for part in (plain, Image.fromarray(canvas.astype(np.uint8)))]
    scale = min(3.0, side / max(parts[0].size))
    width, height = (max(1, round(n * scale)) for n in parts[0].size)
    picture = Image.new("RGB", (2 * width + 4, height + CAPTION))
    for x, part in zip((0, width + 4), parts, strict=True):
        picture.paste(part.resize((width, height), Image.Resampling.LANCZOS), (x, CAPTION))
    draw, font, x = ImageDraw.Draw(picture), ImageFont.load_default(size=15), 4
    title = f"{target} in {failure.record.dataset} {failure.record.stem}: Dice {failure.dice:.3f}"
    for text, colour in ((title, WHITE), ("agreed", AGREED), ("missed", MISSED), ("false", FALSE)):
        draw.text((x, 4), text, fill=colour, font=font)
        x += int(draw.textlength(text, font=font)) + 14
    return picture


def draw_failure_maps(worst: Mapping[str, Sequence[Failure]]) -> Image.Image | None:
    """Agreed, missed and false pixels without the photograph: a row per target, the worst first; None for nothing.

    Only of `SHOWN` data sets. Nothing names an image, because names can hold the number of a patient.
    """
    rows = {target: [f for f in sorted(failures, reverse=True) if f.record.dataset in SHOWN]
            for target, failures in sorted(worst.items())}
    rows = {target: failures for target, failures in rows.items() if failures}
    if not rows:
        return None
    height = CELL + CAPTION
    sheet = Image.new("RGB", (max(map(len, rows.values())) * (CELL + 4) - 4, len(rows) * height), FAINT)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, (target, failures) in enumerate(rows.items()):
        for j, failure in enumerate(failures):
            x, y = j * (CELL + 4), i * height
            sheet.paste(_map(failure), (x, y + CAPTION))
            draw.text((x + 4, y + 5), f"{target}: Dice {failure.dice:.2f}", fill=WHITE, font=font)
    return sheet


def _map(failure: Failure) -> Image.Image:
    """The part that matters, in black and three colours, in the middle of a square cell."""
    canvas = np.zeros((*failure.truth.shape, 3), np.uint8)
    for mask, colour in _coloured(failure):
        canvas[mask] = colour
    part = Image.fromarray(canvas).crop(_window(failure.predicted | failure.truth))
    scale = CELL / max(part.size)
    part = part.resize([max(1, round(n * scale)) for n in part.size], Image.Resampling.BOX if scale < 1 else
                       Image.Resampling.NEAREST)
    cell = Image.new("RGB", (CELL, CELL))
    cell.paste(part, ((CELL - part.width) // 2, (CELL - part.height) // 2))
    return cell


def _coloured(failure: Failure) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    p, t = failure.predicted, failure.truth
    return [(p & t, AGREED), (t & ~p, MISSED), (p & ~t, FALSE)]


def _window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around a non-empty mask, at least a third of the image wide, for orientation."""
    window = []
    for axis in (1, 0):
        n = mask.shape[1 - axis]
        inside = np.flatnonzero(mask.any(axis=axis))
        half = max((inside[-1] - inside[0]) * 0.6, n / 6)
        middle = (inside[0] + inside[-1]) / 2
        window.append((int(max(0, middle - half)), int(min(n, middle + half))))
    (y0, y1), (x0, x1) = window
    return x0, y0, x1, y1
