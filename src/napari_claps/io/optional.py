"""Libraries that only some file formats need."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from napari_claps.errors import InputError


def require(module: str, *, extra: str, what: str) -> ModuleType:
    """Import `module`, or say which extra of the package brings it.

    Parameters
    ----------
    module : str
        Dotted name.
    extra : str
        Extra of napari-claps that installs it.
    what : str
        What cannot be done without it, with the file: the beginning of the message.

    Raises
    ------
    InputError
        If the library is not installed or does not import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra, what, f" ({error})") from error


def require_installed(package: str, *, extra: str, what: str) -> None:
    """Like :func:`require`, without importing the package into this process."""
    if importlib.util.find_spec(package) is None:
        raise _missing(package, extra, what)


def _missing(module: str, extra: str, what: str, detail: str = "") -> InputError:
    package = module.split(".")[0].replace("_", "-")
    return InputError(f'{what} needs the library {package}{detail}. Install it by: pip install "napari-claps[{extra}]"')
