"""The conductor: an image and a request become slices, and in the end what belongs to the whole.

The command line writes what a `Study` yields, napari paints it, and Python users get it. Linking, doubtful places,
anatomy, the prompt check, measurement and provenance are conducted here and nowhere else.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_claps.errors import BundleError
from napari_claps.inference.slices import chosen_slices
from napari_claps.measurement import Measurer, best_scores
from napari_claps.results.findings import Findings
from napari_claps.results.provenance import MaskDigests, provenance
from napari_claps.study.request import Request, slices_text
from napari_claps.trust.anatomy import Violation, can_check, find_violations
from napari_claps.trust.modality_guard import modality_warning
from napari_claps.trust.prompt_check import check_prompts
from napari_claps.types import ModalityGuess, RetinalImage, SliceResult
from napari_claps.volumes.doubts import doubtful_places
from napari_claps.volumes.linking import SliceLinker, can_link, rule_for
from napari_claps.volumes.numbering import LinkedResults, number_objects

if TYPE_CHECKING:
    from napari_claps.inference.pipeline import Pipeline

logger = logging.getLogger(__name__)

Sink = Callable[[SliceResult], None]
"""Takes each slice once, in ascending order, with its final numbers."""


@dataclass(frozen=True, eq=False)
class StudySlice:
    """What was found in a slice, and what of it cannot be in an eye.

    In a volume whose objects are linked the numbers are those of the slice, until `Study.finish` gives those of the
    volume.
    """

    result: SliceResult
    violations: tuple[Violation, ...]


class Study:
    """One image, what is looked for in it, and everything that comes out.

    Parameters
    ----------
    image : RetinalImage
    request : Request
    pipeline : Pipeline
        With the bundle loaded and the settings of the request.
    modality : ModalityGuess, optional
        If it was decided before.
    input_sha256 : str, optional
        Of the file that the image was read from, for the provenance.

    Attributes
    ----------
    modality : ModalityGuess
    prompts : tuple of Prompt
    slices : list of int
        That will come, ascending.
    is_linked : bool
        Whether objects get one number through all slices.
    warnings : list of str
        What the user should know before the work starts; more may be added to it later.

    Raises
    ------
    ClapsError
        Everything that can be wrong with the request, before any work is done.

    Examples
    --------
    >>> with Study(image, Request(("drusen",)), pipeline) as study:  # doctest: +SKIP
    ...     for found in study.run():
    ...         print(found.result.index, found.result.presence)
    ...     findings = study.finish()
    """

    def __init__(self, image: RetinalImage, request: Request, pipeline: Pipeline, *,
                 modality: ModalityGuess | None = None, input_sha256: str | None = None) -> None:
        self.image, self.request = image, request
        self._pipeline = pipeline
        self._manifest = pipeline.bundle.manifest
        self._input_sha256 = input_sha256
        self._seconds: dict[str, float] = defaultdict(float)
        start = time.perf_counter()
        self.modality = modality or pipeline.detect_modality(image)
        self._seconds["modality"] = time.perf_counter() - start
        targets = self._targets()
        self.slices = sorted(chosen_slices(image, request.slices))
        self.prompts = pipeline.prompts(targets, self.modality.modality)
        self.is_linked = (request.settings.link_slices and can_link(self.modality.modality)
                          and len(self.slices) > 1)
        self._results = pipeline.run(image, targets, modality=self.modality, slices=self.slices,
                                     region=request.region)
        self.warnings: list[str] = []
        self._warn(self._modality_mismatch())  # before the work, so that one can stop it
        self._measurer = Measurer(image, model=self._manifest.name, version=self._manifest.version,
                                  linked=self.is_linked)
        labels = [prompt.label for prompt in self.prompts]
        self._digests = MaskDigests(labels)
        self._anatomy_checked = can_check(labels, image)
        self._violations: list[Violation] = []
        self._linker = SliceLinker(image.spacing, rule_for(image.spacing,
                                                           score_threshold=request.settings.score_threshold))
        self._kept = LinkedResults()
        self._sink: Sink | None = None
        self._done: list[int] = []
        self._fullest = (-1, 0, self.slices[0])

    def run(self, sink: Sink | None = None) -> Generator[StudySlice, None, None]:
        """Yield slice by slice; closing the generator cancels, and what is finished can still be brought to an end.

        Parameters
        ----------
        sink : callable, optional
            Takes the slices with their final numbers: at once, or those of a linked volume in `finish`.
        """
        self._sink = sink
        with closing(self._results):
            for result in self._results:
                self._note(result)
                if self.is_linked:
                    self._linker.add(result)
                    self._kept.keep(result)
                    violations = self._violations_of(result)
                else:
                    violations = self._take(result)
                yield StudySlice(result, violations)

    def finish(self) -> Findings:
        """Bring the slices that have come to an end: numbers of the volume, doubts, measurements, provenance."""
        links = doubts = None
        if self.is_linked:
            links = self._kept.links = number_objects(self._linker)
            doubts = tuple(doubtful_places(links))
            for result in self._kept:
                self._take(result)
        check = None
        if self.request.check_prompts and self._done:
            check = check_prompts(self._pipeline, self.image, self._targets(), slice_index=self._fullest[2],
                                  modality=self.modality, region=self.request.region)
            self._warn(*check.warnings)
        return Findings(self._measurer.table(), tuple(self._violations), self._anatomy_checked, links, doubts, check,
                        self._provenance())

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count time that was spent outside, such as for reading the file."""
        self._seconds[stage] += seconds

    def close(self) -> None:
        """Give memory and temporary files back."""
        self._results.close()
        self._kept.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _targets(self) -> list[str]:
        """What was asked for, or all that the bundle knows."""
        known = self._manifest.targets(self.modality.modality)
        if not (self.request.targets or known):
            raise BundleError(f"{self._manifest.name} knows no target in the modality {self.modality.modality}, only "
                              f"in {', '.join(self._manifest.modalities)}. If the modality is wrong, give it with "
                              "--modality.")
        return list(self.request.targets) or known

    def _note(self, result: SliceResult) -> None:
        """Add up the time, and remember the slice in which most was found; of equal ones the first."""
        self._done.append(result.index)
        for stage, value in result.seconds.items():
            self._seconds[stage] += value
        sizes = [int(np.count_nonzero(mask)) for mask in result.masks.values()]
        found = (sum(size > 0 for size in sizes), sum(sizes))
        if found > self._fullest[:2]:
            self._fullest = (*found, result.index)

    def _take(self, result: SliceResult) -> tuple[Violation, ...]:
        """Take a slice with its final numbers."""
        violations = self._violations_of(result)
        self._violations += violations
        self._digests.add(result.masks)
        self._measurer.add(result.index, result.masks, presence=result.presence, scores=best_scores(result))
        if self._sink is not None:
            self._sink(result)
        return violations

    def _violations_of(self, result: SliceResult) -> tuple[Violation, ...]:
        return find_violations(result, self.image) if self._anatomy_checked else ()

    def _warn(self, *sentences: str | None) -> None:
        for sentence in filter(None, sentences):
            logger.warning("%s: %s", self.image.source, sentence)
            self.warnings.append(sentence)

    def _modality_mismatch(self) -> str | None:
        """A warning if the user chose another modality than the file states or the bundle detects."""
        if self.modality.decided_by != "user":
            return None
        try:
            detected = self._pipeline.with_settings(modality="auto").detect_modality(self.image)
        except BundleError:  # nothing in the bundle can tell: then the user's word stands
            return None
        return modality_warning(self.modality.modality, detected)

    def _provenance(self) -> dict[str, Any]:
        request = self.request
        if len(self._done) < len(self.slices):  # cancelled: what was done is what is to be repeated
            request = replace(request, slices=slices_text(self.slices[:len(self._done)]) or request.slices)
        facts = provenance(
            self.image, request.facts(self._input_sha256, self._manifest), manifest=self._manifest,
            settings=self.request.settings, device=str(self._pipeline.bundle.device), modality=self.modality,
            prompts=self.prompts, slices=sorted(self._done), seconds=self._seconds,
            method_settings=self._pipeline.method_settings(self.modality.modality), warnings=self.warnings)
        return facts | {"linked": self.is_linked, "masks_sha256": self._digests.sha256}
