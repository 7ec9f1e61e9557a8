"""Many inputs, one after the other: each becomes a result folder, or a reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from napari_claps.errors import ClapsError
from napari_claps.files.atomic import atomic_path
from napari_claps.io import read
from napari_claps.io.fingerprint import sha256_of
from napari_claps.results import ResultFiles
from napari_claps.results.findings import Findings
from napari_claps.study.jobs import Job
from napari_claps.study.request import Request
from napari_claps.study.study import Study
from napari_claps.types import ModalityGuess

if TYPE_CHECKING:
    from napari_claps.inference.pipeline import Pipeline

OnSlice = Callable[[int, int], None]
"""Called after each slice with the number of slices done and of all."""


class Status(StrEnum):
    """What became of an input."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one input; `reason` and `error` are those of a failure, the rest is that of a new result.

    Warnings were logged when they came up, and are in the findings.
    """

    source: Path
    status: Status
    folder: Path | None = None
    reason: str = ""
    modality: ModalityGuess | None = None
    findings: Findings | None = None
    seconds: float = 0.0
    error: Exception | None = None


def segment_files(jobs: Iterable[Job], pipeline: Pipeline, request: Request,
                  on_slice: OnSlice | None = None) -> Iterator[Outcome]:
    """Segment the files one by one; a failure becomes an outcome and the next file comes.

    Parameters
    ----------
    jobs : iterable of Job
    pipeline : Pipeline
        With the bundle loaded and `request.settings`.
    request : Request
    on_slice : callable, optional
        For progress.

    Yields
    ------
    Outcome
        One per job. `error` is set when it failed.
    """
    for job in jobs:
        start = time.perf_counter()
        try:
            outcome = segment_file(job, pipeline, request, on_slice)
        except ClapsError as error:
            outcome = Outcome(job.source, Status.FAILED, reason=str(error), error=error)
        except Exception as error:  # a defect of ours or of a library: the other files shall not suffer
            reason = f"{job.source}: unexpected {type(error).__name__}: {error}. Run again with --debug to see where."
            outcome = Outcome(job.source, Status.FAILED, reason=reason, error=error)
        yield replace(outcome, seconds=time.perf_counter() - start)


def segment_file(job: Job, pipeline: Pipeline, request: Request, on_slice: OnSlice | None = None) -> Outcome:
    """Segment one file and write its folder, whole or not at all.

    Parameters
    ----------
    job : Job
    pipeline : Pipeline
        With the bundle loaded and `request.settings`.
    request : Request
    on_slice : callable, optional
        For progress.

    Raises
    ------
    ClapsError
        If the input cannot be read, has no such target, or the output cannot be written. The message names the file.
    """
    start = time.perf_counter()
    try:
        image = read(job.source)
        seconds = time.perf_counter() - start
        with Study(image, request, pipeline, input_sha256=sha256_of(job.source)) as study:
            study.add_seconds("read", seconds)
            return _write(job, study, pipeline, on_slice)
    except ClapsError as error:
        if str(job.source) in str(error) or str(job.folder) in str(error):
            raise
        raise type(error)(f"{job.source}: {error}") from error


def _write(job: Job, study: Study, pipeline: Pipeline, on_slice: OnSlice | None) -> Outcome:
    manifest = pipeline.bundle.manifest
    files = ResultFiles(study.image, study.prompts, study.modality, study.slices, settings=study.request.settings,
                        model=manifest.name, version=manifest.version, notice=manifest.notice)
    with atomic_path(job.folder) as partial:
        for done, _ in enumerate(study.run(files.add), start=1):
            if on_slice is not None:
                on_slice(done, len(study.slices))
        findings = study.finish()
        files.write(partial, findings)
    return Outcome(job.source, Status.DONE, job.folder, modality=study.modality, findings=findings)
