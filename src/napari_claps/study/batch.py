"""Many inputs, one after the other: each becomes a result folder, or a reason why not."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from napari_claps.errors import BundleError, ClapsError
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.slices import chosen_slices
from napari_claps.io import read
from napari_claps.results import ResultFiles, provenance
from napari_claps.study.jobs import Job, Options
from napari_claps.trust.anatomy import Violation
from napari_claps.trust.modality_guard import modality_warning
from napari_claps.trust.prompt_check import check_prompts, write_prompt_check
from napari_claps.types import Modality, ModalityGuess, RetinalImage, SliceResult
from napari_claps.volumes.doubts import doubtful_places, write_doubts
from napari_claps.volumes.linking import rule_for
from napari_claps.volumes.numbering import link_slices

if TYPE_CHECKING:
    from napari_claps.inference.pipeline import Pipeline

logger = logging.getLogger(__name__)

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

    `warnings` were logged when they came up, and are in the provenance; `violations` are those of anatomy.
    """

    source: Path
    status: Status
    folder: Path | None = None
    reason: str = ""
    modality: ModalityGuess | None = None
    table: pd.DataFrame | None = None
    warnings: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
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
    seen = _Seen()
    start = time.perf_counter()
    try:
        image = read(job.source)
        seen.seconds["read"] = time.perf_counter() - start
        guess = pipeline.detect_modality(image)
        seen.seconds["modality"] = time.perf_counter() - start - seen.seconds["read"]
        return _segment(job, image, guess, pipeline, options, seen, on_slice)
    except ClapsError as error:
        if str(job.source) in str(error) or str(job.folder) in str(error):
            raise
        raise type(error)(f"{job.source}: {error}") from error


@dataclass
class _Seen:
    """What is added up while the slices pass: seconds per stage, and the slice in which most was found.

    `fullest` is (targets found, pixels, slice); of equal slices the first one counts.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    fullest: tuple[int, int, int] = (-1, 0, 0)

    def add(self, result: SliceResult) -> None:
        for stage, value in result.seconds.items():
            self.seconds[stage] += value
        sizes = [int(np.count_nonzero(mask)) for mask in result.masks.values()]
        found = (sum(size > 0 for size in sizes), sum(sizes))
        if found > self.fullest[:2]:
            self.fullest = (*found, result.index)


def _segment(job: Job, image: RetinalImage, guess: ModalityGuess, pipeline: Pipeline, options: Options,
             seen: _Seen, on_slice: OnSlice | None) -> Outcome:
    manifest = pipeline.bundle.manifest
    targets = list(options.targets) or manifest.targets(guess.modality)
    if not targets:
        raise BundleError(f"{manifest.name} knows no target in the modality {guess.modality}, only in "
                          f"{', '.join(manifest.modalities)}. If the modality is wrong, give it with --modality.")
    slices = sorted(chosen_slices(image, options.slices))
    prompts = pipeline.prompts(targets, guess.modality)
    asked = options.request(job.source, manifest)
    # The z axis of an angiogram is time, and en-face slabs are no neighbours: only B-scans are linked.
    linked = options.settings.link_slices and guess.modality is Modality.OCT and len(slices) > 1
    files = ResultFiles(image, prompts, guess, slices, settings=options.settings, model=manifest.name,
                        version=manifest.version, notice=manifest.notice, linked=linked)
    found = pipeline.run(image, targets, modality=guess, slices=slices, region=options.region)
    warnings = _warn(job, [_modality_mismatch(image, guess, pipeline)])  # before the work, so that one can stop it
    results = _observed(found, len(slices), seen, on_slice)
    with closing(results), atomic_path(job.folder) as partial:
        doubts = None
        if linked:
            rule = rule_for(image.spacing, score_threshold=options.settings.score_threshold)
            with link_slices(results, image.spacing, rule=rule) as volume:
                for result in volume:
                    files.add(result)
                doubts = doubtful_places(volume.links)
        else:
            for result in results:
                files.add(result)
        check = None
        if options.check_prompts:
            check = check_prompts(pipeline, image, targets, slice_index=seen.fullest[2], modality=guess,
                                  region=options.region)
            warnings += _warn(job, check.warnings)
        facts = provenance(image, asked, manifest=manifest, settings=options.settings,
                           device=str(pipeline.bundle.device), modality=guess, prompts=prompts, slices=slices,
                           seconds=seen.seconds, method_settings=pipeline.method_settings(guess.modality),
                           warnings=warnings)
        table = files.write(partial, facts | {"linked": linked})
        if doubts is not None:
            write_doubts(doubts, partial / "doubts.csv")
        if check is not None:
            write_prompt_check(check, partial)
    return Outcome(job.source, Status.DONE, job.folder, modality=guess, table=table, warnings=tuple(warnings),
                   violations=files.violations)


def _warn(job: Job, sentences: Iterable[str | None]) -> list[str]:
    said = [sentence for sentence in sentences if sentence]
    for sentence in said:
        logger.warning("%s: %s", job.source, sentence)
    return said


def _modality_mismatch(image: RetinalImage, guess: ModalityGuess, pipeline: Pipeline) -> str | None:
    """A warning if the user chose another modality than the file states or the bundle detects."""
    if guess.decided_by != "user":
        return None
    try:
        detected = pipeline.with_settings(modality="auto").detect_modality(image)
    except BundleError:  # nothing in the bundle can tell: then the user's word stands
        return None
    return modality_warning(guess.modality, detected)


def _observed(results: Iterator[SliceResult], total: int, seen: _Seen,
              on_slice: OnSlice | None) -> Iterator[SliceResult]:
    """Pass the slices on, adding up what is seen and reporting progress."""
    with closing(results):
        for done, result in enumerate(results, start=1):
            seen.add(result)
            if on_slice is not None:
                on_slice(done, total)
            yield result
