"""Draw one slice with its masks and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from napari_claps.results.overlay.style import INK, Colour, drawable, font
from napari_claps.types import Box, Prompt, SliceResult
from napari_claps.words.appearance import label_colour
from napari_claps.words.vocabulary import TARGETS, Kind, kind_of

Rectangle = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the drawing."""

MAX_LABELS = 6
"""More boxes than this of one target in one slice are drawn thin and without text."""
SMALL = 700
"""Below this many pixels a drawing has thin lines and scores without names."""
FILL = {Kind.TREE: 0.65, Kind.BAND: 0.14, Kind.OBJECT: 0.26, Kind.LESION: 0.32}
"""Opacity inside a mask; a tree is all edge, so it is filled and has no contour."""


def label_colours(prompts: Sequence[Prompt]) -> dict[str, Colour]:
    """Return the colour of each label, the same as in the viewer and in the masks file."""
    return {p.label: label_colour(p.target or p.label) for p in prompts}


def draw_slice(plane: np.ndarray, result: SliceResult, colours: Mapping[str, Colour],
               size: tuple[int, int]) -> Image.Image:
    """Draw one slice with its masks and boxes.

    Parameters
    ----------
    plane : ndarray
        (y, x) of any real dtype, or (y, x, 3) uint8.
    result : SliceResult
    colours : mapping of label to RGB
    size : tuple of int
        Width and height of the drawing.

    Returns
    -------
    PIL image, RGB
    """
    base = Image.fromarray(display(plane)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    if plane.ndim == 3:  # a red fundus hides red vessels: take half of its colour away
        base = Image.blend(base, base.convert("L").convert("RGB"), 0.5)
    canvas = np.asarray(base, dtype=np.float32).copy()
    stroke = 1 if max(size) < SMALL else 2
    # Wide things first, so that a lesion is not hidden under a layer.
    for prompt in sorted(result.prompts, key=lambda p: -np.count_nonzero(result.masks[p.label])):
        mask = result.masks[prompt.label]
        if mask.any():
            kind = kind_of(prompt.target)
            _blend_mask(canvas, mask, colours[prompt.label], kind, size, stroke)
    drawing = Image.fromarray(canvas.round().astype(np.uint8))
    _draw_boxes(drawing, result, colours, (size[0] / plane.shape[1], size[1] / plane.shape[0]), stroke)
    return drawing


def _blend_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour, kind: Kind, size: tuple[int, int],
                stroke: int) -> None:
    binary = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    cover = np.asarray(binary.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    rows, columns = (np.flatnonzero((cover > 0).any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = FILL[kind] * cover[part]
    if kind is not Kind.TREE:
        # The frame lets the contour close where the object ends with the part, not where the image ends.
        inside = np.pad(cover, 1, mode="edge")[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3] > 0.4
        edge = inside & ~binary_erosion(inside, iterations=stroke, border_value=1)
        alpha = np.where(edge[1:-1, 1:-1], 0.95, alpha)
    canvas[part] += alpha[..., None] * (np.array(colour, dtype=np.float32) - canvas[part])


def _draw_boxes(drawing: Image.Image, result: SliceResult, colours: Mapping[str, Colour],
                scale: tuple[float, float], stroke: int) -> None:
    draw = ImageDraw.Draw(drawing)
    face = font(11 if stroke == 1 else 15)
    names = {p.label: TARGETS[p.target].name if p.target else p.label for p in result.prompts}
    whole = {p.label for p in result.prompts if kind_of(p.target).is_whole}
    # The box of a tree or a band is the field: it would frame the picture and say nothing.
    boxes = [box for box in result.boxes if box.label not in whole]
    crowded = {label for label in names if sum(b.label == label for b in boxes) > MAX_LABELS}
    corners = [_scaled(box, scale, drawing.size) for box in boxes]
    for box, place in zip(boxes, corners, strict=True):
        draw.rectangle(place, outline=colours[box.label], width=1 if box.label in crowded else stroke)
    taken: list[Rectangle] = []
    for box, place in zip(boxes, corners, strict=True):
        if box.label in crowded:
            continue
        text = f"{box.score:.2f}" if stroke == 1 else f"{drawable(names[box.label])} {box.score:.2f}"
        others = [c for c in corners if c != place and not _within(place, c)]
        at = _free_place(place, tab_size(draw, text, face), drawing.size, taken, others)
        tab(draw, text, at[:2], colours[box.label], face)
        taken.append(at)


def _scaled(box: Box, scale: tuple[float, float], size: tuple[int, int]) -> Rectangle:
    """Return (x0, y0, x1, y1) in the drawing, in order and inside it."""
    x, y = scale
    x0, y0 = min(max(box.x0 * x, 0), size[0] - 1), min(max(box.y0 * y, 0), size[1] - 1)
    return (x0, y0, max(x0, min(box.x1 * x, size[0]) - 1), max(y0, min(box.y1 * y, size[1]) - 1))


def _free_place(corners: Rectangle, text: tuple[int, int], size: tuple[int, int], taken: Sequence[Rectangle],
                others: Sequence[Rectangle]) -> Rectangle:
    """Return where the text of a box goes: beside it, if possible where no other text and no other box is."""
    x0, y0, x1, y1 = corners
    width, height = text
    places = []
    for x, y in ((x0, y0 - height - 1), (x0, y1 + 1), (x1 - width, y0 - height - 1), (x1 - width, y1 + 1),
                 (x1 + 1, y0), (x0 - width - 1, y0), (x0, y0)):
        x, y = min(max(x, 0), size[0] - width - 1), min(max(y, 0), size[1] - height - 1)
        places.append((x, y, x + width, y + height))
    no_text = [p for p in places if not any(_overlap(p, t) for t in taken)]
    nothing = [p for p in no_text if not any(_overlap(p, other) for other in (*others, corners))]
    return (nothing or no_text or places)[0]


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _within(a: Rectangle, b: Rectangle) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def tab_size(draw: ImageDraw.ImageDraw, text: str, face: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return width and height of the tab that `tab` draws."""
    return int(draw.textlength(text, font=face)) + 7, int(face.size * 1.3) + 2


def tab(draw: ImageDraw.ImageDraw, text: str, corner: Sequence[float], colour: Colour,
        face: ImageFont.FreeTypeFont) -> None:
    """Write a text on a coloured ground, black or white as is easier to read; `corner` is (x, y)."""
    width, height = tab_size(draw, text, face)
    x, y = corner
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    draw.text((x + 4, y + height / 2), text, font=face, fill=(0, 0, 0) if luminance > 140 else INK, anchor="lm")


def display(plane: np.ndarray) -> np.ndarray:
    """Return the plane as uint8; other dtypes are stretched between their 0.5 and 99.5 percentiles."""
    if plane.dtype == np.uint8:
        return np.ascontiguousarray(plane)
    values = plane.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    if low == high and finite.size:  # few pixels differ from the rest
        low, high = finite.min(), finite.max()
    values = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    return (values.clip(0, 1) * 255).astype(np.uint8)
