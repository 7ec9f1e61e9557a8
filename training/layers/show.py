"""Pictures of surfaces on B-scans, to judge by eye.

``python -m training.layers.show LOCATOR:NETWORK OUT.png IMAGE...``, where an image is a PNG, or ``volume.tif:12`` for
B-scan 12 of a volume. They show eyes of patients: what the licence of the data allows is another question.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from training.layers.decode import Surfaces
from training.layers.evaluate import load, pair_of_runs
from training.layers.scans import read_grey
from training.layers.window import find_surfaces
from training.run.command import run_command

COLOURS = np.array([(255, 60, 60), (255, 160, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (60, 140, 255),
                    (180, 80, 255), (255, 0, 200), (255, 255, 255)], np.uint8)


def read(text: str) -> np.ndarray:
    """B-scan (y, x) uint8."""
    name, _, number = text.rpartition(":")
    if name and number.isdigit():
        image = tifffile.imread(name)[int(number)]
        if image.dtype != np.uint8:
            image = np.clip(255.0 * image / max(1.0, float(np.percentile(image, 99.9))), 0, 255).astype(np.uint8)
        return image
    return read_grey(Path(text))


def paint(image: np.ndarray, surfaces: Surfaces) -> np.ndarray:
    """Picture (y, x, 3) uint8, brightened, with a line for each surface where it is visible."""
    grey = (255 * (image / 255.0) ** 0.7).astype(np.uint8)
    out = np.repeat(grey[..., None], 3, 2)
    for heights, colour in zip(surfaces.heights, COLOURS, strict=True):
        x = np.flatnonzero(np.isfinite(heights))
        y = np.clip(np.rint(heights[x]).astype(int), 0, image.shape[0] - 1)
        out[y, x] = colour
    return out


def sheet(tiles: list[Image.Image], columns: int) -> Image.Image:
    """Pictures of one width side by side, in rows."""
    rows = [tiles[i:i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(t.height for t in row) for row in rows]
    width = tiles[0].width
    out = Image.new("RGB", (width * columns, sum(heights)))
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            out.paste(tile, (width * column, sum(heights[:number])))
    return out


def _show(a: argparse.Namespace) -> None:
    locator, net = (load(folder)[0] for folder in pair_of_runs(a.pair))
    tiles = []
    for name in a.images:
        image = read(name)
        surfaces = find_surfaces(locator, net, image)
        print(Path(name).name, image.shape, "answered", np.isfinite(surfaces.heights).mean(1).round(2),
              "std", np.nanmedian(surfaces.std, 1).round(1))
        picture = Image.fromarray(paint(image, surfaces))
        size = a.width, round(picture.height * a.width / picture.width)
        tiles.append(picture.resize(size, Image.Resampling.LANCZOS))
    sheet(tiles, a.columns).save(a.out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", help="LOCATOR:NETWORK, two folders of runs")
    parser.add_argument("out", type=Path)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--width", type=int, default=640)
    a = parser.parse_args()
    return run_command(lambda: _show(a))


if __name__ == "__main__":
    sys.exit(main())
