"""Where the B-scans of an OCT scan lie: distances, and lines on the localizer."""

from __future__ import annotations

import numpy as np

CIRCLE_POINTS = 181
"""Points of the polyline that stands for a circle."""


def slice_distance(starts: np.ndarray, ends: np.ndarray) -> float | None:
    """Distance of the B-scans, if they are parallel and evenly spaced.

    Parameters
    ----------
    starts, ends : ndarray
        (n, 2) positions of the first and last A-scan of each B-scan, in mm.

    Returns
    -------
    float or None
        Millimetres between neighbours, perpendicular to the B-scans; None for a
        single B-scan and for stars, circles and uneven rasters, which have no such number.
    """
    if len(starts) < 2:
        return None
    directions = ends - starts
    lengths = np.linalg.norm(directions, axis=1)
    if not np.all(np.isfinite(lengths)) or lengths.min() <= 0:
        return None
    directions = directions / lengths[:, None]
    if np.any(directions @ directions[0] < 0.999):
        return None
    normal = np.array([-directions[0, 1], directions[0, 0]])
    steps = np.concatenate([np.diff(starts @ normal), np.diff(ends @ normal)])
    distance = float(np.mean(steps))
    # Positions are written with few digits, so that steps of a dense raster differ by some per cent.
    if distance == 0 or np.any(np.abs(steps - distance) > 0.05 * abs(distance) + 0.0015):
        return None
    return abs(distance)


def straight_lines(starts: np.ndarray, ends: np.ndarray, spacing: tuple[float, float] | None) -> np.ndarray | None:
    """Lines of straight B-scans on the localizer.

    Parameters
    ----------
    starts, ends : ndarray
        (n, 2) positions (x, y) in mm from the upper left corner of the localizer.
    spacing : tuple of float or None
        Millimetres per pixel (y, x) of the localizer.

    Returns
    -------
    ndarray or None
        (n, 2, 2) points (y, x) in pixels, or None if something is not known.
    """
    if spacing is None or not (np.all(np.isfinite(starts)) and np.all(np.isfinite(ends))):
        return None
    return np.stack([starts[:, ::-1], ends[:, ::-1]], axis=1) / np.asarray(spacing)


def circle_line(start: np.ndarray, centre: np.ndarray, spacing: tuple[float, float] | None) -> np.ndarray | None:
    """Polyline of a circular B-scan on the localizer.

    Parameters
    ----------
    start, centre : ndarray
        (2,) first A-scan and centre of the circle, (x, y) in mm.
    spacing : tuple of float or None
        Millimetres per pixel (y, x) of the localizer.

    Returns
    -------
    ndarray or None
        (1, CIRCLE_POINTS, 2) points (y, x) in pixels, or None if something is not known.

    Notes
    -----
    Circumpapillary scans run temporal, superior, nasal, inferior. They start on the temporal
    side, left in a right eye and right in a left one, and go up from there in both.
    """
    if spacing is None or not (np.all(np.isfinite(start)) and np.all(np.isfinite(centre))):
        return None
    x, y = start - centre
    turn = 1 if x < 0 else -1  # y points down, so that +1 is clockwise on the screen
    angles = np.arctan2(y, x) + turn * np.linspace(0, 2 * np.pi, CIRCLE_POINTS)
    radius = np.hypot(x, y)
    points = np.stack([centre[1] + radius * np.sin(angles), centre[0] + radius * np.cos(angles)], axis=1)
    return points[None] / np.asarray(spacing)
