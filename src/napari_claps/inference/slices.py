"""Which part of an image is looked at: slices of a volume, and a region of every slice."""

from __future__ import annotations

from napari_claps.errors import InputError
from napari_claps.types import RetinalImage


def chosen_slices(image: RetinalImage, text: str | None) -> list[int]:
    """Return the slices of the image that ``START:STOP:STEP`` chooses; all without it, and the one of a plane image.

    Raises
    ------
    InputError
        If none is chosen.
    """
    if text is None or not image.is_volume:
        return list(range(image.n_slices))
    chosen = list(range(image.n_slices))[parse_slices(text)]
    if not chosen:
        raise InputError(f"{image.source}: --slices {text} chooses none of its {image.n_slices} slices "
                         f"(0 to {image.n_slices - 1}).")
    return chosen


def parse_slices(text: str) -> slice:
    """Turn ``START:STOP:STEP`` (each part optional) or one number into a slice.

    Raises
    ------
    InputError
        If it is not that.
    """
    parts = text.split(":")
    try:
        numbers = [int(p) if p.strip() else None for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] is not None:
        return slice(numbers[0], numbers[0] + 1 or None)
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1):
        raise InputError(f"--slices {text}: write START:STOP or START:STOP:STEP with whole numbers, "
                         "STOP not included and STEP at least 1, or one number.")
    return slice(*numbers)


def parse_region(text: str) -> tuple[int, int, int, int]:
    """Turn ``Y0,X0,Y1,X1`` into a region in pixels, end exclusive. Whether it lies in an image is seen at the image.

    Raises
    ------
    InputError
        If it is not that.
    """
    try:
        y0, x0, y1, x1 = (int(part) for part in text.split(","))
    except ValueError:
        y0 = x0 = y1 = x1 = 0
    if not (0 <= y0 < y1 and 0 <= x0 < x1):
        raise InputError(f"--region {text}: write Y0,X0,Y1,X1 with whole numbers from 0: the first row and column, and "
                         "the row and column after the last.")
    return y0, x0, y1, x1
