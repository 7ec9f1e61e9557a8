"""What all readers do with pixels: refuse impossible sizes, drop alpha, find grey in colour, refuse NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from napari_claps.errors import InputError

MAX_PLANE_PIXELS = 2**28
"""Largest slice: 16384 x 16384, several times the largest retinal camera."""

MAX_BYTES = 16 * 2**30
"""Largest decoded image or volume in bytes; ten times 512 B-scans of 1024 x 1536 in 16 bit."""

MAX_RATIO = 2000
"""Decoded bytes per byte in the file. Deflate cannot exceed 1032, photographs stay below 100."""

_UNSUSPICIOUS = 64 * 2**20  # what a bomb may cost; small blank images compress beyond MAX_RATIO


def check_claim(source: str, shape: Sequence[int], itemsize: int, available: int, *, compressed: bool) -> None:
    """Refuse a size that the bytes in the file cannot fill, before memory is taken.

    Parameters
    ----------
    source : str
        Path, for the message.
    shape : sequence of int
        Claimed shape of the array, all axes.
    itemsize : int
        Bytes per number.
    available : int
        Bytes in the file that hold pixels, or the size of the file.
    compressed : bool
        Whether those bytes are compressed.

    Raises
    ------
    InputError
        If the claim is larger than the file or than any retinal image.
    """
    claimed = math.prod(int(n) for n in shape) * itemsize
    size = " x ".join(str(n) for n in shape)
    if any(n < 1 for n in shape):
        raise InputError(f"{source}: declares an image of {size} pixels, which holds nothing.")
    planes = sorted(int(n) for n in shape)[-2:]
    if claimed > MAX_BYTES or math.prod(planes) > MAX_PLANE_PIXELS:
        raise InputError(
            f"{source}: declares {size} pixels ({_human(claimed)}), more than any retinal image has. "
            "The file is damaged, or must be cropped first."
        )
    if not compressed and claimed > available:
        raise InputError(
            f"{source}: declares {size} pixels ({_human(claimed)}) but holds {_human(available)}. "
            "The file is truncated or damaged; copy or export it again."
        )
    if compressed and claimed > _UNSUSPICIOUS and claimed > MAX_RATIO * available:
        raise InputError(
            f"{source}: declares {size} pixels ({_human(claimed)}), which cannot be in {_human(available)}. "
            "The file is damaged, or made to exhaust the memory."
        )


def check_finite(data: np.ndarray, source: str) -> None:
    """Refuse NaN and infinity, with their number; slice by slice, so that volumes cost no extra memory.

    Raises
    ------
    InputError
        If there are any.
    """
    if not np.issubdtype(data.dtype, np.floating):
        return
    slices = data if data.ndim > 2 else (data,)
    bad = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in slices)
    if bad:
        raise InputError(
            f"{source}: {bad} of {data.size} pixels are NaN or infinite. "
            "Replace them by a number (for instance the background) and try again."
        )


def grey_or_rgb(data: np.ndarray, source: str, *, colour: bool) -> tuple[np.ndarray, bool]:
    """Bring pixels to what :class:`~napari_claps.types.RetinalImage` holds.

    Parameters
    ----------
    data : ndarray
        (..., y, x), or (..., y, x, c) when `colour`. Any real dtype; ``bool`` becomes 0 and 255.
    source : str
        Path, for messages.
    colour : bool
        Whether the last axis is colour, with 1 to 4 channels: grey, grey and alpha, RGB, RGB and alpha.

    Returns
    -------
    data : ndarray
        (..., y, x) in its own dtype, or (..., y, x, 3) uint8.
    rgb : bool

    Raises
    ------
    InputError
        If pixels are complex or not finite, if alpha hides something, or the number of channels is not 1 to 4.

    Notes
    -----
    Alpha that is opaque everywhere is dropped. Any other is refused: what lies
    under transparent pixels is undefined, and no background is the right one.
    Three equal channels are one grey channel. Colour of more than 8 bits is
    scaled to 8, from the smallest usual depth (10, 12, 14, 16 bits) that holds
    its maximum, because cameras store 12 bits in 16; float colour must be in [0, 1].
    """
    if data.dtype == bool:
        data = data.astype(np.uint8) * np.uint8(255)
    if data.dtype.kind not in "uif" or data.dtype.itemsize > 8:
        raise InputError(f"{source}: pixels of type {data.dtype} are not an image; integers or real numbers are.")
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    check_finite(data, source)
    if not colour:
        return data, False
    channels = data.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise InputError(f"{source}: has {channels} channels; an image has 1 (grey) or 3 (RGB). Save one channel.")
    if channels in (2, 4):
        data = _without_alpha(data, source)
    if data.shape[-1] == 1 or _is_grey(data):
        return np.ascontiguousarray(data[..., 0]), False
    return _to_8_bit(data, source), True


def _without_alpha(data: np.ndarray, source: str) -> np.ndarray:
    alpha = data[..., -1]
    opaque = np.iinfo(data.dtype).max if data.dtype.kind in "ui" else 1
    hidden = int(np.count_nonzero(alpha != opaque))
    if hidden:
        raise InputError(
            f"{source}: has {data.shape[-1]} channels, and the last (alpha) makes {hidden} of {alpha.size} pixels "
            "transparent. Flatten the image on its background, or save it without alpha."
        )
    return data[..., :-1]


def _is_grey(data: np.ndarray) -> bool:
    first = data[..., 0]
    return np.array_equal(first, data[..., 1]) and np.array_equal(first, data[..., 2])


def _to_8_bit(data: np.ndarray, source: str) -> np.ndarray:
    if data.dtype == np.uint8:
        return np.ascontiguousarray(data)
    low, high = data.min(), data.max()
    if data.dtype.kind == "f":
        if low < 0 or high > 1:
            raise InputError(f"{source}: float colour runs from {low:g} to {high:g}; it must lie between 0 and 1.")
        return np.round(data * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise InputError(f"{source}: colour runs from {low} to {high}; at most 16 bits (0 to 65535) are understood.")
    if high <= 255:
        return data.astype(np.uint8)
    bits = next(b for b in (10, 12, 14, 16) if high < 2**b)
    return (data >> (bits - 8)).astype(np.uint8)


def _human(n: int) -> str:
    size = float(n)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
