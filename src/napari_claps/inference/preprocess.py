"""From pixels of any kind to what the encoder sees: one mapping for training and inference."""

from __future__ import annotations

import numpy as np

from napari_claps.errors import InputError


def to_unit_rgb(plane: np.ndarray, *, limits: tuple[float, float] | None = None, source: str = "image") -> np.ndarray:
    """Map a plane to (y, x, 3) float32 in [0, 1].

    8-bit pixels are divided by 255, so that what the user sees is what the
    model sees. Other integer and float pixels are stretched between `limits`,
    by default their own 0.1 and 99.9 percentiles.

    Parameters
    ----------
    plane : ndarray
        (y, x) or (y, x, 3), any real dtype.
    limits : tuple of float, optional
        Lowest and highest value, the same for all slices of a volume.
    source : str
        Name for messages.

    Raises
    ------
    InputError
        If there are NaN or infinite values, or the dtype is not a real number.
    """
    if plane.dtype.kind not in "buif":
        raise InputError(f"{source}: pixels of type {plane.dtype} are not real numbers.")
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():  # a sample for the limits may have missed them
        raise InputError(_not_finite(plane, source))
    if plane.dtype == np.uint8:
        unit = plane.astype(np.float32) / 255
    else:
        low, high = limits or display_limits(plane, source=source)
        unit = np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    return np.ascontiguousarray(np.broadcast_to(unit[..., None], (*unit.shape, 3)) if unit.ndim == 2 else unit)


def display_limits(data: np.ndarray, *, source: str = "image") -> tuple[float, float]:
    """Percentiles 0.1 and 99.9 of an array, from at most a million of its values.

    Raises
    ------
    InputError
        If there are NaN or infinite values.
    """
    step = max(1, data.size // 1_000_000)
    # `flat` takes the same values as `reshape(-1)`, which copies a whole volume that is not in the order of its axes.
    sample = (data.reshape(-1) if data.flags.c_contiguous else data.flat)[::step].astype(np.float64)
    if not np.isfinite(sample).all():
        raise InputError(_not_finite(data, source))
    low, high = np.percentile(sample, [0.1, 99.9])
    return float(low), float(high)


def _not_finite(data: np.ndarray, source: str) -> str:
    bad = int(data.size - np.isfinite(data).sum())
    return (f"{source}: {bad} of {data.size} values are NaN or infinite. "
            "Replace them (for instance by 0) before segmenting.")
