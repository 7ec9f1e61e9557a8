"""The SHA-256 of an input: by it a result is known to be of this image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.io.heyex_xml import pictures_of


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder.

    Of a HEYEX export it is that of the XML file followed by the names and contents of its pictures.

    Raises
    ------
    InputError
        If it is not there, or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                digest.update(file.relative_to(path).as_posix().encode())
                _update(digest, file)
        else:
            _update(digest, path)
            for name in sorted(pictures_of(path)) if path.suffix.lower() == ".xml" else ():
                if (picture := path.parent / name).is_file():  # what is missing is an error of the reader
                    digest.update(name.encode())
                    _update(digest, picture)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such image.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()


def _update(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
