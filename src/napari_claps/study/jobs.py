"""What a batch has to do: which file goes to which folder, and what is there already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_claps.errors import ClapsError, OutputError
from napari_claps.io import list_inputs
from napari_claps.io.fingerprint import sha256_of
from napari_claps.io.formats import suffix_of
from napari_claps.results import expected_files
from napari_claps.study.request import Request

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import BundleManifest


@dataclass(frozen=True)
class Job:
    """One input file and the folder its results go to."""

    source: Path
    folder: Path


def plan(inputs: Iterable[Path], out: Path) -> tuple[list[Job], list[ClapsError]]:
    """Expand folders and give every file a result folder of its own.

    Parameters
    ----------
    inputs : iterable of Path
        Files and folders.
    out : Path
        Where the result folders go.

    Returns
    -------
    jobs : list of Job
        Nothing twice.
    errors : list of ClapsError
        One for every input that is missing, and every folder without an image.
    """
    found: dict[Path, Path] = {}
    errors: list[ClapsError] = []
    for path in inputs:
        try:
            for file in list_inputs([path]):
                found.setdefault(file.resolve(), file)
        except ClapsError as error:
            errors.append(error)
    names = folder_names(list(found))
    return [Job(file, out / names[real]) for real, file in found.items()], errors


def folder_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name the result folders: the stem; where that is not unique the file name, and then parent folders before it.

    Upper and lower case count as the same, as they do on many file systems. Should all that not be enough, a number
    is added.

    Examples
    --------
    >>> names = folder_names([Path("/a/eye.png"), Path("/b/eye.tif"), Path("/b/fundus.ome.tif")])
    >>> list(names.values())
    ['eye.png', 'eye.tif', 'fundus']
    """
    names = {path: _stem(path) for path in paths}
    for depth in range(max((len(p.parts) for p in paths), default=0)):
        for path in _crowded(names):
            names[path] = "_".join(part.strip("/\\:") for part in path.parts[-depth - 1 :])
    for number, path in enumerate(_crowded(names), start=1):
        names[path] = f"{names[path]}_{number}"
    return names


def is_complete(job: Job, request: Request, manifest: BundleManifest, *, overwrite: bool = False) -> bool:
    """Whether the result folder already holds what is asked for.

    Raises
    ------
    OutputError
        If there is something else, which must not be replaced (unless `overwrite` is set and it is a result).
    """
    if not job.folder.exists():
        return False
    old = _old_request(job.folder)
    if old is None:
        raise OutputError(f"{job.folder}: exists and is no result of napari-claps, so it is left alone. "
                          "Choose another folder with -o.")
    if overwrite:
        return False
    new = request.facts(sha256_of(job.source), manifest)
    names = (name for name in sorted(new.keys() | old.keys()) if new.get(name) != old.get(name))
    different = ", ".join(name.removesuffix("_sha256") for name in names)
    if different:
        raise OutputError(f"{job.folder}: holds another result (different: {different}). "
                          "Add --overwrite to replace it, or choose another folder with -o.")
    expected = expected_files(request.settings, check_prompts=request.check_prompts)
    missing = [name for name in expected if not (job.folder / name).is_file()]
    if missing:
        raise OutputError(f"{job.folder}: {', '.join(missing)} is missing. Add --overwrite to make it again.")
    return True


def _old_request(folder: Path) -> dict[str, Any] | None:
    """Return what an existing result was asked for; None if the folder is no result."""
    try:
        facts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        return dict(facts["request"]) if facts["program"].startswith("napari-claps") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _crowded(names: dict[Path, str]) -> list[Path]:
    same = Counter(name.casefold() for name in names.values())
    return [path for path, name in names.items() if same[name.casefold()] > 1]


def _stem(path: Path) -> str:
    """Return the file name without its suffix, ``.ome.tif`` being one."""
    return path.name[: -len(suffix_of(path) or path.suffix) or None] or path.name
