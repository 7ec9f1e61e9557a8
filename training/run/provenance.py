"""What a run was made from: the files with their hashes, and the revision of the code."""

from __future__ import annotations

import csv
import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

from napari_claps.files.atomic import atomic_path
from training.data.records import Record, data_root


def record_files(records: Iterable[Record]) -> list[Path]:
    """The images of the records with the masks and fields of view that lie there."""
    files = []
    for record in records:
        files += [record.image, *record.masks.values(), *filter(None, [record.field_of_view])]
    return files


def write_data_list(path: Path, files: Iterable[Path]) -> dict[str, int | str]:
    """Write ``path,bytes,sha256`` of every file, sorted, paths as seen from the data folder.

    Returns
    -------
    dict
        ``files``, their number, and ``sha256`` of the list: two runs with the same one used the same data.
    """
    root = data_root()
    lines = []
    for file in sorted(set(files)):
        content = file.read_bytes()
        lines.append([file.relative_to(root).as_posix(), str(len(content)), hashlib.sha256(content).hexdigest()])
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows([["path", "bytes", "sha256"], *lines])
    return {"files": len(lines), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def git_revision() -> str:
    """Commit of the code, with ``+changes`` if files differ from it; empty where there is no git."""
    root = Path(__file__).parents[2]

    def ask(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()
        except OSError:
            return ""

    revision = ask("rev-parse", "HEAD")
    return revision + "+changes" * bool(ask("status", "--porcelain", "--untracked-files=no", "--", ".")) \
        if revision else ""
