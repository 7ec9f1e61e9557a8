"""The legend beside the picture: what was looked for, in which colour, and how much was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from napari_claps.measurement import scale_source
from napari_claps.results.overlay.style import BACKGROUND, FAINT, INK, Colour, drawable, font
from napari_claps.types import ModalityGuess, Prompt, RetinalImage
from napari_claps.words.vocabulary import MODALITIES, TARGETS

PANEL = 340
"""Width of the legend in pixels."""

Line = tuple[str, int, Colour, Colour | None]
"""Text, size, colour, and colour of the square before it."""


def legend(image: RetinalImage, prompts: Sequence[Prompt], modality: ModalityGuess, table: pd.DataFrame,
           colours: Mapping[str, Colour], *, footer: Sequence[str] = ()) -> Image.Image:
    """Draw the legend.

    Parameters
    ----------
    image, prompts, modality
        What was looked at, and for.
    table : DataFrame
        From `napari_claps.measurement.measure`.
    colours : mapping of label to RGB
    footer : sequence of str
        Last lines.
    """
    sure = "" if modality.probability is None else f" {modality.probability:.2f}"
    size = " x ".join(str(n) for n in reversed(image.data.shape[: 3 if image.is_volume else 2]))
    lines: list[Line] = [
        (Path(image.source).name, 17, INK, None),
        (f"{MODALITIES[modality.modality].name} ({modality.decided_by}{sure})", 14, INK, None),
        (f"{size} pixels", 14, FAINT, None),
        (_spacing_text(image), 14, FAINT, None),
        ("", 10, INK, None),
    ]
    whole = table[table["slice"].isna()]
    for prompt in prompts:
        rows = whole[whole["structure"] == prompt.label]
        name = TARGETS[prompt.target].name if prompt.target else prompt.label
        absent = bool((rows["status"] == "absent").all())
        lines.append((name, 15, FAINT if absent else INK, colours[prompt.label]))
        lines.append(("absent" if absent else summary(rows), 13, FAINT, BACKGROUND))
    lines += [("", 10, INK, None), *((text, 13, FAINT, None) for text in footer)]
    return _text_block(lines)


def summary(rows: pd.DataFrame) -> str:
    """Return the most telling numbers of one target: objects or slices, then volume or area.

    Parameters
    ----------
    rows : DataFrame
        Rows of one target for the whole image or volume.
    """
    value = {(r.measure, r.unit): r.value for r in rows.itertuples() if not math.isnan(r.value)}
    texts = []
    if ("slices_present", "n") in value:
        texts.append(f"in {_plural(value['slices_present', 'n'], 'slice')}")
    elif ("count", "n") in value:
        texts.append(_plural(value["count", "n"], "object"))
    sizes = {("volume", "nL"): "nL", ("area", "mm2"): "mm2", ("volume", "voxel"): "voxels", ("area", "px"): "px"}
    for key, unit in sizes.items():
        if key in value:
            texts.append(f"{value[key]:.0f} {unit}" if value[key] >= 100 else f"{value[key]:.3g} {unit}")
            break
    return ", ".join(texts)


def _plural(count: float, noun: str) -> str:
    return f"{count:.0f} {noun}" if count == 1 else f"{count:.0f} {noun}s"


def _spacing_text(image: RetinalImage) -> str:
    spacing = image.spacing or image.plane_spacing
    if spacing is None:
        return "pixel size not known"
    distance = "" if image.spacing else ", distance of slices not known"
    return " x ".join(f"{s:.4g}" for s in reversed(spacing)) + f" mm ({scale_source(image)}){distance}"


def _text_block(lines: Sequence[Line]) -> Image.Image:
    """Set the lines under each other, wrapped to the width of the panel."""
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    placed: list[tuple[int, int, Line]] = []
    y = 16
    for text, size, colour, swatch in lines:
        left = 18 if swatch is None else 42
        for number, part in enumerate(wrap(scratch, text, font(size), PANEL - left - 14)):
            placed.append((left, y, (part, size, colour, swatch if number == 0 else None)))
            y += int(size * 1.45)
    block = Image.new("RGB", (PANEL, y + 16), BACKGROUND)
    draw = ImageDraw.Draw(block)
    for x, top, (text, size, colour, swatch) in placed:
        if swatch is not None:
            draw.rectangle((18, top + 2, 32, top + 16), fill=swatch)
        draw.text((x, top), text, font=font(size), fill=colour)
    return block


def wrap(draw: ImageDraw.ImageDraw, text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text at spaces, and inside a word that is too long for a line; in letters that the font has."""
    lines = [""]
    for word in drawable(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if draw.textlength(joined, font=face) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if draw.textlength(lines[-1] + character, font=face) > width:
                lines.append("")
            lines[-1] += character
    return lines
