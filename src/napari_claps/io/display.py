"""The one mapping from raw OCT reflectivity to grey values, for every reader, in training and inference."""

from __future__ import annotations

import numpy as np

_INVALID = 3.0e38  # HEYEX writes the largest float32 where an A-scan was not measured


def reflectivity_to_grey(raw: np.ndarray) -> np.ndarray:
    """Map raw linear reflectivity to the grey values that the device shows and exports.

    Parameters
    ----------
    raw : ndarray
        Any shape, float; reflectivity in [0, 1]. Negative, NaN and the
        largest float32 mean "not measured".

    Returns
    -------
    ndarray
        Same shape, uint8: ``255 * raw ** 0.25``, 0 where nothing was measured.

    Notes
    -----
    The fourth root is what Heidelberg Engineering recommends for ``.vol``
    exports and what its own picture exports contain; published B-scans, on
    which models are trained, are such exports. eyepy's logarithmic mapping has
    more contrast and a black vitreous: a model would see another kind of image.
    """
    raw = np.asarray(raw, dtype=np.float32)
    measured = (raw >= 0) & (raw < _INVALID)  # False for NaN
    return np.round(255 * np.sqrt(np.sqrt(np.clip(np.where(measured, raw, 0), 0, 1)))).astype(np.uint8)
