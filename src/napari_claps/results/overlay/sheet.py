"""Put the drawings together: one image, or the tiles of a volume, and the legend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from PIL import Image, ImageDraw

from napari_claps.results.overlay.drawing import draw_slice, label_colours, tab
from napari_claps.results.overlay.legend import PANEL, legend
from napari_claps.results.overlay.style import BACKGROUND, font
from napari_claps.types import ModalityGuess, Prompt, RetinalImage, SliceResult

LONG_SIDE = (960, 1600)
"""Smallest and largest long side of a plane image in the picture, in pixels."""
SHEET_WIDTH = 1440
"""Width of all tiles of a volume together, in pixels."""
MAX_TILES = 12
GAP = 6


class Overlay:
    """Draws slices as they come, and keeps only what the picture needs.

    Parameters
    ----------
    image : RetinalImage
    prompts : sequence of Prompt
    modality : ModalityGuess
    slices : sequence of int
        Slices that will come; of a volume at most `MAX_TILES`, evenly spread over them, are shown.
    caption, notice : str
        Last lines of the legend.
    """

    def __init__(self, image: RetinalImage, prompts: Sequence[Prompt], modality: ModalityGuess,
                 slices: Sequence[int], *, caption: str = "", notice: str = "") -> None:
        self._image = image
        self._prompts = tuple(prompts)
        self._modality = modality
        self._caption, self._notice = caption, notice
        self._colours = label_colours(prompts)
        self._shown = spread(slices, MAX_TILES)
        self._tiles: dict[int, Image.Image] = {}
        self._columns, self._tile_size = layout(image, len(self._shown))

    def add(self, result: SliceResult) -> None:
        """Draw the slice if it is one of those shown."""
        if result.index not in self._shown:
            return
        tile = draw_slice(self._image.plane(result.index), result, self._colours, self._tile_size)
        if self._image.is_volume:
            tab(ImageDraw.Draw(tile), f"slice {result.index}", (4, 4), BACKGROUND, font(13))
        self._tiles[result.index] = tile

    def picture(self, table: pd.DataFrame) -> Image.Image:
        """Return the RGB picture; the numbers of the legend come from the table of measurements."""
        width, height = self._tile_size
        gap = GAP if self._image.is_volume else 0
        rows = math.ceil(len(self._tiles) / self._columns)
        panel = legend(self._image, self._prompts, self._modality, table, self._colours,
                       footer=(self._caption, self._notice))
        sheet = (self._columns * (width + gap) + gap, rows * (height + gap) + gap)
        picture = Image.new("RGB", (sheet[0] + PANEL, max(sheet[1], panel.height)), BACKGROUND)
        for number, index in enumerate(sorted(self._tiles)):
            row, column = divmod(number, self._columns)
            picture.paste(self._tiles[index], (gap + column * (width + gap), gap + row * (height + gap)))
        picture.paste(panel, (sheet[0], 0))
        return picture


def spread(slices: Sequence[int], most: int) -> tuple[int, ...]:
    """Return at most `most` of the slices, evenly spread, the middle of each stretch."""
    if len(slices) <= most:
        return tuple(slices)
    return tuple(slices[int((i + 0.5) * len(slices) / most)] for i in range(most))


def layout(image: RetinalImage, tiles: int) -> tuple[int, tuple[int, int]]:
    """Return the number of columns and the (width, height) of a tile."""
    height, width = image.plane_shape
    if not image.is_volume:
        long = max(height, width)
        scale = min(max(long, LONG_SIDE[0]), LONG_SIDE[1]) / long
        return 1, (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = max(1, min(tiles, round(math.sqrt(1.3 * tiles * height / width))))
    tile = SHEET_WIDTH // max(2, columns)
    # A narrow strip must not become a picture of endless height.
    scale = min(tile / width, 2 * tile / height)
    return columns, (max(1, round(width * scale)), max(1, round(height * scale)))
