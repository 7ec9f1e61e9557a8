"""The boundaries between retinal layers in their fixed order, and the way between heights and masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BOUNDARIES = ("ilm", "rnfl_gcl", "ipl_inl", "inl_opl", "opl_onl", "onl_myoid", "ellipsoid_os", "os_rpe", "bm")
"""From the vitreous down; boundary k is the upper edge of layer k."""

LAYERS = ("rnfl", "gcipl", "inl", "opl", "onl", "myoid_ellipsoid", "outer_segments", "rpe_bm_complex")
"""Layer k lies between the boundaries k and k + 1; all together are `retina` (ILM to Bruch's membrane)."""

NOT_VISIBLE = np.inf
"""Height of a boundary that cannot be seen in its column; NaN is one that nobody annotated."""


def heights_from_masks(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Heights of the boundaries, from the masks of the layers.

    Parameters
    ----------
    masks : mapping of str to ndarray
        (y, x) bool, `retina` and all `LAYERS`.

    Returns
    -------
    ndarray
        (boundary, x) float32 rows of pixel centres: a pixel of row r lies below boundary k where r >= height. A mask
        that begins in row r gives r - 0.5. A layer that is missing within the retina has no thickness; columns
        without retina are NaN.
    """
    retina = masks["retina"]
    height, width = retina.shape
    has = retina.any(0)
    top = np.where(has, retina.argmax(0), np.nan) - 0.5
    end = np.where(has, height - retina[::-1].argmax(0), np.nan) - 0.5
    out = np.full((len(BOUNDARIES), width), np.nan, np.float32)
    out[0], out[-1] = top, end
    for k in range(1, len(LAYERS)):
        above, below = masks[LAYERS[k - 1]], masks[LAYERS[k]]
        ends = np.where(above.any(0), height - above[::-1].argmax(0) - 0.5, np.nan)
        begins = np.where(below.any(0), below.argmax(0) - 0.5, np.nan)
        # Drawn layers leave gaps of a pixel or overlap by one: the boundary is in the middle.
        both = np.stack([ends, begins])
        known = np.isfinite(both)
        out[k] = np.where(known.any(0), np.where(known, both, 0).sum(0) / np.maximum(known.sum(0), 1), out[k - 1])
    out[:, has] = np.clip(np.maximum.accumulate(out[:, has], 0), top[has], end[has])
    out[:, ~has] = np.nan
    return out


def masks_from_heights(heights: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Masks (y, x) bool of `retina` and all `LAYERS`, from heights (boundary, x); NaN and infinity bound nothing."""
    y = np.arange(rows, dtype=np.float32)[:, None]
    known = np.isfinite(heights)
    out = {}
    for name, a, b in [("retina", 0, len(BOUNDARIES) - 1)] + [(n, k, k + 1) for k, n in enumerate(LAYERS)]:
        both = known[a] & known[b]
        low, high = np.where(both, heights[a], 0), np.where(both, heights[b], 0)
        out[name] = (y >= low) & (y < high)
    return out
