"""NumPy .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_claps.errors import InputError
from napari_claps.io.pixels import check_claim, grey_or_rgb
from napari_claps.types import RetinalImage

MAP_FROM = 256 * 2**20
"""Arrays of at least so many bytes are mapped, not loaded."""


def read_npy(path: Path) -> RetinalImage:
    """Read an array saved by ``numpy.save``.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        (y, x) or (z, y, x) when the last axis is longer than 4, otherwise
        (y, x, c) or (z, y, x, c). The spacing is unknown. Large arrays are a
        read-only memory map.

    Raises
    ------
    InputError
        If the file is truncated, holds Python objects or no image.
    """
    source = str(path)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise InputError(
            f"{source}: is not an array of numbers, or is truncated ({error}). Save it again with numpy.save."
        ) from error
    if mapped.ndim not in (2, 3, 4):
        raise InputError(f"{source}: an array of shape {mapped.shape} is neither an image nor a volume.")
    check_claim(source, mapped.shape, mapped.itemsize, path.stat().st_size, compressed=False)
    data = mapped if mapped.nbytes >= MAP_FROM else np.array(mapped)
    colour = data.ndim > 2 and data.shape[-1] <= 4
    data, rgb = grey_or_rgb(data, source, colour=colour)
    return RetinalImage(data, rgb=rgb, source=source)
