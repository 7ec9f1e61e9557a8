"""What the widgets compute: one engine per widget, one thread at a time in it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING

from napari_claps.errors import InputError
from napari_claps.io.fingerprint import sha256_of
from napari_claps.plugin.layers import LayerSource
from napari_claps.plugin.triton import hide_triton_from_torch
from napari_claps.settings import Settings
from napari_claps.study.request import Request
from napari_claps.study.study import Study, StudySlice
from napari_claps.trust.prompt_check import PromptCheck, check_prompts
from napari_claps.types import ModalityGuess

if TYPE_CHECKING:
    from napari_claps.inference.pipeline import Pipeline
    from napari_claps.models.bundles.bundle import Bundle
    from napari_claps.results.findings import Findings


class Engine:
    """The loaded bundles of one widget; a lock lets one thread at a time into them."""

    def __init__(self) -> None:
        self._bundles: dict[tuple[str, str], Bundle] = {}
        self._lock = threading.Lock()

    def detect(self, source: LayerSource, settings: Settings) -> ModalityGuess:
        """Detect the modality."""
        image = source.image()
        with self._lock:
            return self._pipeline(settings).detect_modality(image)

    def run(self, source: LayerSource, request: Request, modality: ModalityGuess | None,
            started: Callable[[Study], None]) -> Generator[StudySlice, None, None]:
        """Yield slice by slice.

        The lock is held while a slice is computed and not between slices, so that an
        abandoned run blocks nobody.

        Parameters
        ----------
        source : LayerSource
        request : Request
        modality : ModalityGuess or None
            If it was decided before.
        started : callable
            Gets the study before its work begins, in the thread of the work. Whoever gets it brings it to an end, by
            `finish` or `Study.close`.
        """
        image, sha256 = source.image(), _sha256(source)
        with self._lock:
            study = Study(image, request, self._pipeline(request.settings), modality=modality, input_sha256=sha256)
        started(study)
        with closing(study.run()) as slices:
            while True:
                with self._lock:
                    found = next(slices, None)
                if found is None:
                    return
                yield found

    def finish(self, study: Study) -> Findings:
        """Bring a study to an end, also one that was cancelled: what has come is linked, measured and written down."""
        with study, self._lock:
            return study.finish()

    def check_prompts(self, source: LayerSource, request: Request, slice_index: int,
                      modality: ModalityGuess | None = None) -> PromptCheck:
        """Run a slice with true and wrong texts, see `napari_claps.trust.prompt_check`."""
        image = source.image()
        with self._lock:
            return check_prompts(self._pipeline(request.settings), image, request.targets, slice_index=slice_index,
                                 modality=modality, region=request.region)

    def _pipeline(self, settings: Settings) -> Pipeline:
        hide_triton_from_torch()
        from napari_claps.inference.pipeline import Pipeline
        from napari_claps.models.bundles.bundle import load_bundle

        key = (settings.bundle, settings.device)
        if key not in self._bundles:
            self._bundles.clear()  # one bundle in memory is enough
            self._bundles[key] = load_bundle(settings.bundle, device=settings.device,
                                             models_folder=settings.models_folder)
        bundle = self._bundles[key]
        if str(bundle.device) == "cpu":
            # Slices of a batch arrive together; alone, they arrive and can be cancelled one by one.
            settings = dataclasses.replace(settings, batch_size=1)
        return Pipeline(bundle, settings)


def _sha256(source: LayerSource) -> str | None:
    """That of the file, if it is there and has the very pixels of the layer; None where they come from no file."""
    origin, data = source.origin, source.data
    if origin is None or origin.path is None or data is not origin.image.data or not origin.is_still(data):
        return None
    try:
        return sha256_of(origin.path)
    except InputError:  # it went meanwhile
        return None
