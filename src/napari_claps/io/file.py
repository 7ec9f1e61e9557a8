"""One image file: its format is recognised, and whatever its parser raises becomes one kind of error."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from napari_claps.errors import ClapsError, InputError
from napari_claps.io.formats import identify
from napari_claps.types import RetinalImage

logger = logging.getLogger(__name__)


def read_file(path: str | Path) -> RetinalImage:
    """Read a retinal image or volume from a file, as `napari_claps.io.read` does; a folder is refused."""
    path = Path(path)
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
