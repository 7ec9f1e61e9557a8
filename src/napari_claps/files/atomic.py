"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_claps.errors import ClapsError, OutputError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, which takes its place when the block ends well.

    The temporary file (or folder, for formats that are folders) keeps the
    suffixes of `target`, because many writers choose their format by them. If
    the block raises, it is deleted and `target` stays as it was.

    Parameters
    ----------
    target : path
        Where the file shall be. Missing parent folders are made.

    Yields
    ------
    Path
        Path in the same folder, which does not exist yet.

    Raises
    ------
    OutputError
        If the folder or the file cannot be written.

    Examples
    --------
    >>> with atomic_path("table.csv") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("a,b")
    """
    target = Path(target)
    suffixes = "".join(target.suffixes[-2:])
    temporary = target.with_name(f".{secrets.token_hex(6)}.part{suffixes}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _replace(temporary, target)
    except ClapsError:
        _remove(temporary)
        raise
    except OSError as error:
        _remove(temporary)
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error}). "
            "Choose a folder that you may write to and that has room."
        ) from error
    except BaseException:  # also Ctrl-C and a cancelled generator: no half file is left
        _remove(temporary)
        raise


def _replace(temporary: Path, target: Path) -> None:
    if temporary.is_dir() and target.is_dir():
        # os.replace cannot replace a folder that is not empty: the old one steps aside first.
        old = target.with_name(f".{secrets.token_hex(6)}.old")
        os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:  # on Windows, while a viewer has a file in it open
            os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # the folder itself is gone or locked: the first error tells more
            return
