"""The zip file of a session: one JSON document and numbered arrays, read with suspicion."""

from __future__ import annotations

import io
import json
import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_claps.errors import ClapsError, InputError, OutputError

DOCUMENT = "session.json"

MAX_DOCUMENT = 16 * 2**20
"""Bytes of JSON: about 100 000 boxes."""

MAX_MEMBERS = 1000

_BLOCK = _DIRECTORY = 2**20  # bytes; the directory of a thousand members needs a tenth of it
_NAME = re.compile(r"session\.json|arrays/(0|[1-9]\d{0,3})\.npy")
_MAX_RATIO = 1032  # of deflate
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError, IndexError,
            AttributeError, OverflowError, RecursionError, NotImplementedError, MemoryError,
            SyntaxError, tokenize.TokenError)  # fmt: skip  # the last two from numpy, which parses headers as Python


def write_archive(path: Path, document: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Write `document` and `arrays`; the same content gives the same bytes.

    Raises
    ------
    OutputError
        If the document or the number of arrays is larger than the reader takes.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False).encode()
    if len(text) > MAX_DOCUMENT or len(arrays) >= MAX_MEMBERS:
        raise OutputError(
            f"The session has {len(arrays)} arrays and {len(text)} bytes of tables and boxes; at most "
            f"{MAX_MEMBERS - 1} and {MAX_DOCUMENT} can be read again. Save it in parts."
        )
    # By name, so that all members are dated 1980: when a session was saved is the business of its provenance.
    # Masks shrink a hundredfold at any level.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as file:
        with file.open(DOCUMENT, "w") as member:
            member.write(text)
        for number, array in enumerate(arrays):
            with file.open(array_name(number), "w", force_zip64=array.nbytes > 2**31) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def array_name(number: int) -> str:
    """Name of the member that holds array `number`."""
    return f"arrays/{number}.npy"


class Archive:
    """Opens a session for reading.

    Parameters
    ----------
    path : Path
    max_bytes : int
        Most bytes that all members may inflate to.

    Raises
    ------
    InputError
        If it is no zip file, or has members that no session has. Errors inside the ``with`` block that come
        from damaged content become InputError, too.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._file: io.BufferedReader | None = None
        try:
            self._file = _Guarded(io.FileIO(path))
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._checked(self._zip.infolist(), max_bytes)
        except BaseException as error:
            self.close()
            if isinstance(error, _DAMAGED):
                raise self._readable(error) from error
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()
        if isinstance(error, ClapsError) and str(self._path) not in str(error):
            raise InputError(f"{self._path}: {error}") from error
        if isinstance(error, _DAMAGED) and not isinstance(error, ClapsError):
            raise self._readable(error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        with self._zip.open(self._members[DOCUMENT]) as member:
            document = json.loads(b"".join(iter(lambda: member.read(_BLOCK), b"")))
        if not isinstance(document, dict):
            raise ValueError(f"{DOCUMENT} is no JSON object")
        return document

    def array(self, number: int) -> np.ndarray:
        """Return array `number`, once; never unpickles, and takes no more memory than the member declares."""
        # Many layers that share one member would take far more memory than the members together.
        info = self._members.pop(array_name(number))
        with self._zip.open(info) as member:
            if np.lib.format.read_magic(member) != (1, 0):
                raise ValueError(f"{info.filename} is of an unknown version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            if dtype.kind not in "buif" or dtype.subdtype is not None:
                raise ValueError(f"{info.filename} holds {dtype}, not numbers")
            if any(n < 0 for n in shape) or len(shape) > 4:
                raise ValueError(f"{info.filename} has the shape {shape}")
            n_bytes = math.prod(shape) * dtype.itemsize
            if member.tell() + n_bytes != info.file_size:
                raise ValueError(f"{info.filename} declares the shape {shape} and {info.file_size} bytes")
            array = np.empty(shape[::-1] if fortran else shape, dtype)
            _fill(array, member, info.filename)
        return array.T if fortran else array

    def _checked(self, infos: list[zipfile.ZipInfo], max_bytes: int) -> dict[str, zipfile.ZipInfo]:
        path = self._path
        if len(infos) > MAX_MEMBERS:
            raise InputError(f"{path}: has {len(infos)} members; a session has at most {MAX_MEMBERS}.")
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.orig_filename
            if not _NAME.fullmatch(name) or name in members:
                again = "twice " if name in members else ""
                raise InputError(f"{path}: holds {again}a member named {name[:80]!r}, which no session has.")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{path}: {name} is encrypted or compressed in a way that no session is.")
            if info.file_size > _MAX_RATIO * info.compress_size + 64:
                raise InputError(
                    f"{path}: {name} declares {info.file_size} bytes, which cannot be in {info.compress_size} "
                    "compressed ones. The file is damaged, or made to exhaust the memory."
                )
            members[name] = info
        if DOCUMENT not in members:
            raise InputError(f"{path}: has no {DOCUMENT}, so it is no session of napari-claps.")
        if members[DOCUMENT].file_size > MAX_DOCUMENT:
            raise InputError(
                f"{path}: its {DOCUMENT} declares {members[DOCUMENT].file_size} bytes, more than the {MAX_DOCUMENT} "
                "that a session may have. The file is damaged, or made to exhaust the memory."
            )
        total = sum(info.file_size for info in infos)
        if total > max_bytes:
            raise InputError(
                f"{path}: would inflate to {total / 2**30:.2f} GiB; the limit is {max_bytes / 2**30:.2f} GiB. "
                "If you trust it, read it with napari_claps.session.read_session(path, max_bytes=...)."
            )
        return members

    def _readable(self, error: BaseException) -> InputError:
        if isinstance(error, InputError):
            return error
        if isinstance(error, FileNotFoundError):
            return InputError(f"{self._path}: there is no such file.")
        if isinstance(error, MemoryError):
            return InputError(f"{self._path}: does not fit into the memory of this computer.")
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            return InputError(f"{self._path}: cannot be opened ({error.strerror}).")
        if isinstance(error, KeyError):
            reason = f"{reason} is missing"
        return InputError(
            f"{self._path}: cannot be read as a session ({reason}). The file is damaged, truncated, or was not "
            "written by napari-claps."
        )


def _fill(array: np.ndarray, member: IO[bytes], name: str) -> None:
    view = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
    at = 0
    while at < len(view):
        block = member.read(min(_BLOCK, len(view) - at))
        if not block:
            raise EOFError(f"{name} ends early")
        view[at : at + len(block)] = block
        at += len(block)
    if member.read(1):  # also makes zipfile compare the checksum
        raise ValueError(f"{name} is longer than it declares")


class _Guarded(io.BufferedReader):
    """Keeps zipfile from taking in a directory of millions of members, which it reads in one go."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes, which no session has")
        return super().read(size)
