"""Many inputs, one after the other: each becomes a result folder, or a reason why not."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from napari_claps.doubts import doubtful_places, write_doubts
from napari_claps.errors import BundleError, ClapsError
from napari_claps.io import read
from napari_claps.io.atomic import atomic_path
from napari_claps.jobs import Job, Options
from napari_claps.linking import LinkRule, rule_for
from napari_claps.outputs import ResultFiles, provenance, request, sha256_of
from napari_claps.slices import chosen_slices
from napari_claps.types import Modality, ModalityGuess, RetinalImage, SliceResult
from napari_claps.volume import link_slices

if TYPE_CHECKING:
    from napari_claps.pipeline import Pipeline

OnSlice = Callable[[int, int], None]
"""Called after each slice with the number of slices done and of all."""


class Status(StrEnum):
    """What became of an input."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one input; `table` and `modality` are those of a new result, `reason` that of a failure."""

    source: Path
    status: Status
    folder: Path | None = None
    reason: str = ""
    modality: ModalityGuess | None = None
    table: pd.DataFrame | None = None
    seconds: float = 0.0
    error: Exception | None = None


def segment_files(jobs: Iterable[Job], pipeline: Pipeline, options: Options,
                  on_slice: OnSlice | None = None) -> Iterator[Outcome]:
    """Segment the files one by one; a failure becomes an outcome and the next file comes.

    Parameters
    ----------
    jobs : iterable of Job
    pipeline : Pipeline
        With the bundle loaded and `options.settings`.
    options : Options
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
            outcome = segment_file(job, pipeline, options, on_slice)
        except ClapsError as error:
            outcome = Outcome(job.source, Status.FAILED, reason=str(error), error=error)
        except Exception as error:  # a defect of ours or of a library: the other files shall not suffer
            reason = f"{job.source}: unexpected {type(error).__name__}: {error}. Run again with --debug to see where."
            outcome = Outcome(job.source, Status.FAILED, reason=reason, error=error)
        yield replace(outcome, seconds=time.perf_counter() - start)


def segment_file(job: Job, pipeline: Pipeline, options: Options, on_slice: OnSlice | None = None) -> Outcome:
    """Segment one file and write its folder, whole or not at all.

    Parameters
    ----------
    job : Job
    pipeline : Pipeline
        With the bundle loaded and `options.settings`.
    options : Options
    on_slice : callable, optional
        For progress.

    Raises
    ------
    ClapsError
        If the input cannot be read, has no such target, or the output cannot be written. The message names the file.
    """
    seconds: dict[str, float] = defaultdict(float)
    start = time.perf_counter()
    try:
        image = read(job.source)
        seconds["read"] = time.perf_counter() - start
        guess = pipeline.detect_modality(image)
        seconds["modality"] = time.perf_counter() - start - seconds["read"]
        table = _segment(job, image, guess, pipeline, options, seconds, on_slice)
    except ClapsError as error:
        if str(job.source) in str(error) or str(job.folder) in str(error):
            raise
        raise type(error)(f"{job.source}: {error}") from error
    return Outcome(job.source, Status.DONE, job.folder, modality=guess, table=table)


def _segment(job: Job, image: RetinalImage, guess: ModalityGuess, pipeline: Pipeline, options: Options,
             seconds: dict[str, float], on_slice: OnSlice | None) -> pd.DataFrame:
    manifest = pipeline.bundle.manifest
    targets = list(options.targets) or manifest.targets(guess.modality)
    if not targets:
        raise BundleError(f"{manifest.name} knows no target in the modality {guess.modality}, only in "
                          f"{', '.join(manifest.modalities)}. If the modality is wrong, give it with --modality.")
    slices = sorted(chosen_slices(image, options.slices))
    prompts = pipeline.prompts(targets, guess.modality)
    asked = request(sha256_of(job.source), manifest, options.settings, list(options.targets), options.slices)
    # The z axis of an angiogram is time, and en-face slabs are no neighbours: only B-scans are linked.
    linked = options.settings.link_slices and guess.modality is Modality.OCT and len(slices) > 1
    files = ResultFiles(image, prompts, guess, slices, model=manifest.name, version=manifest.version,
                        notice=manifest.notice)
    results = _observed(pipeline.run(image, targets, modality=guess, slices=slices), len(slices), seconds, on_slice)
    with closing(results), atomic_path(job.folder) as partial:
        doubts = None
        if linked:
            with link_slices(results, image.spacing, rule=_link_rule(image, options)) as volume:
                for result in volume:
                    files.add(result)
                doubts = doubtful_places(volume.links)
        else:
            for result in results:
                files.add(result)
        facts = provenance(image, asked, manifest=manifest, settings=options.settings,
                           device=str(pipeline.bundle.device), modality=guess, prompts=prompts, slices=slices,
                           seconds=seconds)
        table = files.write(partial, facts)
        if doubts is not None:
            write_doubts(doubts, partial / "doubts.csv")
        return table


def _observed(results: Iterator[SliceResult], total: int, seconds: dict[str, float],
              on_slice: OnSlice | None) -> Iterator[SliceResult]:
    """Pass the slices on, adding up the time of their stages and reporting progress."""
    with closing(results):
        for done, result in enumerate(results, start=1):
            for stage, value in result.seconds.items():
                seconds[stage] += value
            if on_slice is not None:
                on_slice(done, total)
            yield result


def _link_rule(image: RetinalImage, options: Options) -> LinkRule:
    """The rule for the spacing; an object that the user's threshold would drop is not kept by it either."""
    rule = rule_for(image.spacing)
    return replace(rule, keep=max(rule.keep, options.settings.score_threshold or 0.0))
