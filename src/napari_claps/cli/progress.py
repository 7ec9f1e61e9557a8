"""The loop over files as a terminal shows it: bars on stderr, a line per file on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from napari_claps.cli.messages import report_error
from napari_claps.inference.pipeline import Pipeline
from napari_claps.results.findings import Findings
from napari_claps.study.batch import Outcome, segment_files
from napari_claps.study.jobs import Job
from napari_claps.study.request import Request
from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES

LOG_INTERVAL = 5.0
"""Seconds between two lines of a bar when stderr is a file."""


@dataclass(frozen=True)
class Terminal:
    """Where messages go. `quiet` leaves errors only, `debug` adds tracebacks."""

    quiet: bool = False
    debug: bool = False

    def say(self, text: str) -> None:
        """Write a line to stdout, without breaking a bar."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)

    def segment(self, jobs: Sequence[Job], request: Request) -> Iterator[Outcome]:
        """Load the bundle and segment all jobs.

        Outcomes come one by one and are not kept: an error holds the image that it happened in, and a table is large.

        Raises
        ------
        ClapsError
            If bundle, device or targets cannot be used; nothing has been written then.
        """
        pipeline = Pipeline.from_settings(request.settings)
        if request.settings.modality != "auto" and request.targets:
            pipeline.prompts(request.targets, Modality(request.settings.modality))
        several, terminal = len(jobs) > 1, sys.stderr.isatty()
        interval = 0.1 if terminal else LOG_INTERVAL
        with (
            tqdm(total=len(jobs), desc="files", unit="file", disable=self.quiet or not several,
                 mininterval=interval, dynamic_ncols=True) as files,
            # Two bars move the cursor, which leaves control characters in a file.
            tqdm(unit="slice", disable=self.quiet or (several and not terminal), mininterval=interval, leave=False,
                 dynamic_ncols=True) as slices,
        ):  # fmt: skip

            def announced() -> Iterator[Job]:
                for job in jobs:
                    slices.reset()
                    slices.set_description(job.source.name)
                    yield job

            def on_slice(done: int, total: int) -> None:
                slices.total = total
                slices.update(done - slices.n)

            for outcome in segment_files(announced(), pipeline, request, on_slice):
                if outcome.error is not None:
                    report_error(outcome.error, text=outcome.reason, debug=self.debug)
                else:
                    self.say(_line(outcome))
                files.update()
                yield outcome


def _line(outcome: Outcome) -> str:
    """Return what is printed of a finished file."""
    guess, findings = outcome.modality, outcome.findings
    assert guess is not None and findings is not None, "only a finished file has a line"
    table = findings.measurements
    whole = table[table["slice"].isna()].drop_duplicates("structure")
    present = whole.loc[whole["status"] == "present", "structure"]
    sure = "" if guess.probability is None else f" {guess.probability:.2f}"
    found = ", ".join(present) if len(present) else "nothing found"
    line = (f"{outcome.source}: {MODALITIES[guess.modality].name} ({guess.decided_by}{sure}); {found}; "
            f"{outcome.seconds:.1f} s -> {outcome.folder}")
    return line + _anatomy(findings)


def _anatomy(findings: Findings) -> str:
    """A line about what cannot be in an eye, if there is something."""
    if not findings.violations:
        return ""
    first, n = findings.violations[0], len(findings.violations)
    more = f", and {n - 1} more" if n > 1 else ""
    is_volume = findings.measurements["slice"].nunique() > 1
    where = f" in slice {first.slice_index}" if is_volume else ""
    return (f"\n  anatomy: {first.label}{where}: {first.reason}{more} "
            f"(listed in anatomy.csv, nothing was changed)")
