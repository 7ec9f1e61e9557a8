"""Readers of images, one module a format. Nothing here needs torch, napari or Qt."""

from __future__ import annotations

from pathlib import Path

from napari_claps.io.file import read_file
from napari_claps.io.folder import list_inputs, read_folder_as_volume
from napari_claps.io.formats import FORMATS, SUFFIXES, Format, identify
from napari_claps.types import RetinalImage

__all__ = ["FORMATS", "SUFFIXES", "Format", "identify", "list_inputs", "read", "read_file", "read_folder_as_volume"]


def read(path: str | Path) -> RetinalImage:
    """Read a retinal image or volume from a file, or a volume from a folder of B-scans.

    The format is decided by the suffix and the first bytes.

    Parameters
    ----------
    path : path

    Returns
    -------
    RetinalImage

    Raises
    ------
    InputError
        If the file is missing, of no known format, damaged, or holds no image.

    Examples
    --------
    >>> from napari_claps import read
    >>> image = read("macula.vol")  # doctest: +SKIP
    >>> image.data.shape, image.spacing  # doctest: +SKIP
    ((61, 496, 768), (0.12, 0.00387, 0.0113))
    """
    path = Path(path)
    return read_folder_as_volume(path) if path.is_dir() else read_file(path)
