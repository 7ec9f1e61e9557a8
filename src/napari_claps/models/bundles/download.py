"""Downloading published checkpoints: with progress, resumed after a break, verified, and whole or not at all.

By requests alone: pooch begins every broken download anew, which a checkpoint of gigabytes on a slow line never
survives, and wants a SHA-256 where the publisher gives the beginning of an MD5; huggingface_hub resumes, but knows one
server, and most checkpoints lie on others.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests

from napari_claps.errors import BundleError, OutputError
from napari_claps.models.bundles.manifest import models_folder, sha256_of
from napari_claps.models.bundles.registry import Checkpoint, RemoteFile

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that are here, and the bytes of all if known."""

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

ATTEMPTS = 5
"""Broken connections in a row, without a byte gained, before it is given up."""


def get_checkpoint(checkpoint: Checkpoint, folder: str | Path | None = None, *,
                   progress: Progress | None = None) -> Path:
    """Download what is missing of a checkpoint; proxies are those of the environment (``HTTPS_PROXY``).

    Parameters
    ----------
    checkpoint : Checkpoint
    folder : path, optional
        The user's folder, as for `napari_claps.models.bundles.manifest.models_folder`.
    progress : callable, optional

    Returns
    -------
    Path
        The file, or the folder of several.

    Raises
    ------
    BundleError
        If the server does not have it, cannot be reached, or sends something else.
    OutputError
        If it cannot be written.
    """
    place = models_folder(folder)
    for file, path in zip(checkpoint.files, checkpoint.paths(place), strict=True):
        download(file, path, progress=progress)
    return checkpoint.path(place)


def download(file: RemoteFile, target: Path, *, progress: Progress | None = None, pause: float = 1.0) -> Path:
    """Download a file, unless a good one is there.

    What arrives is kept in ``target.part`` and continued by the next attempt, also by one in another process. It
    takes its name only after `check_file` found it good.

    Parameters
    ----------
    file : RemoteFile
    target : Path
    progress : callable, optional
    pause : float
        Seconds before the second attempt; doubled for each further one.

    Raises
    ------
    BundleError, OutputError
        As for `get_checkpoint`.
    """
    if target.is_file():
        check_file(file, target)
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, part, progress, pause)
        try:
            check_file(file, part)
        except BundleError:
            part.unlink(missing_ok=True)  # a wrong beginning would make every continuation wrong
            raise
        os.replace(part, target)
    except requests.RequestException as error:  # an OSError as well, but none of the disk
        raise BundleError(f"{file.url}: the connection failed ({type(error).__name__}). What has arrived is kept: run "
                          "the same command again to go on. Behind a proxy, set HTTPS_PROXY.") from error
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _disk_error(target, error) from error
    return target


def check_file(file: RemoteFile, path: Path) -> str:
    """Compare a file with everything that is known of it; returns what that was.

    Raises
    ------
    BundleError
        If it is another file, or damaged.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise BundleError(f"{path}: has {size:,} bytes instead of {file.size:,}; it is not {file.url}. "
                          "Remove it (claps models remove) and get it again.")
    if file.sha256:
        _same(file, path, "sha256", file.sha256, sha256_of(path))
        return "sha256"
    if file.md5_prefix:
        with path.open("rb") as content:
            md5 = hashlib.file_digest(content, "md5").hexdigest()
        _same(file, path, "MD5", file.md5_prefix, md5[:len(file.md5_prefix)])
        return f"beginning of MD5 ({file.md5_prefix})"
    return "size" if file.size is not None else "nothing is published to compare it with"


def _same(file: RemoteFile, path: Path, kind: str, expected: str, found: str) -> None:
    if found != expected:
        raise BundleError(f"{path}: its {kind} is {found}, not {expected}: the file from {file.url} is damaged or was "
                          "replaced. Remove it (claps models remove) and get it again; if that does not help, do not "
                          "use it.")


def _fetch(file: RemoteFile, part: Path, progress: Progress | None, pause: float) -> None:
    """Fill `part`, going on after broken connections as long as they bring something."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _attempt(file, part, before, progress):
                return
            broken: requests.RequestException = requests.ConnectionError("the connection ended early")
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            broken = error
        gained = part.exists() and part.stat().st_size > before
        failures = 1 if gained else failures + 1
        if failures >= ATTEMPTS:
            raise broken
        time.sleep(pause * 2 ** (failures - 1))


def _attempt(file: RemoteFile, part: Path, start: int, progress: Progress | None) -> bool:
    """One connection, from byte `start` on; whether the file is complete."""
    headers = {"Accept-Encoding": "identity"}  # packed bytes could not be continued
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable and start:
            if start == file.size:
                return True
            part.unlink()  # longer than the file, or complete without our knowing: begin again
            return False
        if answer.status_code >= 500:
            raise requests.ConnectionError(f"status {answer.status_code}")
        if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise BundleError(f"{file.url}: {urlsplit(answer.url).hostname} answers {answer.status_code} "
                              f"({answer.reason}). The file may have moved: see where it is published, download it "
                              "yourself, and use claps models import.")
        if answer.status_code == requests.codes.ok:
            start = 0  # the server does not know ranges: from the beginning
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise BundleError(f"{file.url}: the server sent another part of the file than was asked for "
                              f"({answer.headers.get('Content-Range')}). Try again, or download it yourself.")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else file.size
        _check_room(part, start, total)
        done = start
        with part.open("ab" if start else "wb") as out:
            for chunk in answer.iter_content(CHUNK):
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), done, total)
    return total is None or done >= total


def _check_room(part: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise OutputError(f"{part.parent}: {(total - start) / 1e6:,.0f} MB are to come, but only {free / 1e6:,.0f} MB "
                          "are free. Make room, or choose another disk by --folder or CLAPS_MODELS.")


def _disk_error(target: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{target}: the disk is full. What has arrived is kept; make room and run the same command "
                           "again, or choose another disk by --folder or CLAPS_MODELS.")
    return OutputError(f"{target}: cannot be written ({error.strerror or error}). Choose another place by --folder or "
                       "CLAPS_MODELS.")
