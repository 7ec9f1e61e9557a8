"""Sessions: image, masks, boxes, settings and provenance in one ``.claps.zip`` that opens as it was saved.

Everything here is plain data. What shows it (napari) turns its layers into
these dataclasses and back; nothing here knows of a viewer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_claps.errors import OutputError
from napari_claps.files.atomic import atomic_path
from napari_claps.session.document import Session
from napari_claps.session.layers import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    Placement,
    ShapeLayer,
)

__all__ = ["MAX_BYTES", "SUFFIX", "BoxLayer", "ImageLayer", "ImageReference", "Layer", "MaskLayer", "Placement",
           "Session", "ShapeLayer", "is_session", "read_session", "write_session"]  # fmt: skip

SUFFIX = ".claps.zip"

MAX_BYTES = 4 * 2**30
"""Largest sum of the inflated members: ten targets in 512 B-scans of 496 x 768."""


def is_session(path: str | Path) -> bool:
    """Whether `path` is named like a session and begins like a zip file. Never raises."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return path.name.lower().endswith(SUFFIX) and file.read(4) == b"PK\3\4"
    except OSError:
        return False


def write_session(path: str | Path, session: Session) -> None:
    """Write a session, whole or not at all.

    Parameters
    ----------
    path : path
        Should end in ``.claps.zip``.
    session : Session

    Raises
    ------
    OutputError
        If the file cannot be written, or something in the session has no place in it.
    """
    from napari_claps.session.archive import write_archive
    from napari_claps.session.json import encode

    path = Path(path)
    arrays: list[np.ndarray] = []
    try:
        document = encode(session, arrays, folder=path.absolute().parent)
    except (TypeError, ValueError) as error:
        raise OutputError(f"{path}: the session cannot be written ({error}).") from error
    if (n_bytes := sum(array.nbytes for array in arrays)) > MAX_BYTES:
        raise OutputError(
            f"{path}: the session holds {n_bytes / 2**30:.1f} GiB of pixels, the limit is {MAX_BYTES / 2**30:.0f} GiB. "
            "Refer to the image instead of copying it, or export the masks as OME-Zarr."
        )
    with atomic_path(path) as temporary:
        write_archive(temporary, document, arrays)


def read_session(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Session:
    """Read a session. Sizes are checked before memory is taken, and nothing in the file is executed.

    Parameters
    ----------
    path : path
    max_bytes : int
        Most bytes that the file may inflate to.

    Returns
    -------
    Session
        Equal to what was written, except that tuples in `style` and `metadata` are lists. The referred image
        is not touched: see `ImageReference.locate`.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a session, of a newer version, or too large.
    """
    from napari_claps.session.archive import Archive
    from napari_claps.session.decode import decode

    path = Path(path)
    with Archive(path, max_bytes=max_bytes) as archive:
        return decode(archive.document(), archive.array, folder=path.absolute().parent)
