"""Reading and writing files. Nothing here needs torch, napari or Qt."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from napari_claps.errors import ClapsError, InputError
from napari_claps.io.folder import list_inputs, read_folder_as_volume
from napari_claps.io.formats import FORMATS, SUFFIXES, Format, identify
from napari_claps.types import RetinalImage

__all__ = ["FORMATS", "SUFFIXES", "Format", "identify", "list_inputs", "read", "read_folder_as_volume"]

logger = logging.getLogger(__name__)


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
    if path.is_dir():
        return read_folder_as_volume(path)
    kind = identify(path)
    try:
        with warnings.catch_warnings():
            # The libraries warn of oddities in a file; what matters of them is checked, and ends in an InputError.
            warnings.simplefilter("ignore")
            return kind.load()(path)
    except ClapsError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into the memory of this computer.") from error
    except Exception as error:
        # Parsers of binary formats raise anything on damaged bytes; the user needs only one kind of error.
        logger.debug("reading failed as %s", kind.name, exc_info=not kind.identifying)
        detail = "" if kind.identifying else f": {str(error).splitlines()[0][:200]}" if str(error) else ""
        raise InputError(
            f"{path}: cannot be read as {kind.name} ({type(error).__name__}{detail}). "
            "The file is damaged, truncated or of a variant that is not understood."
        ) from error
