"""What the widgets compute: one engine per widget, one thread at a time in it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_claps.plugin.layers import LayerSource
from napari_claps.plugin.triton import hide_triton_from_torch
from napari_claps.settings import Settings
from napari_claps.trust.anatomy import Violation, find_violations
from napari_claps.trust.prompt_check import PromptCheck, check_prompts
from napari_claps.types import Modality, ModalityGuess, SliceResult
from napari_claps.volumes.doubts import Doubt, doubtful_places
from napari_claps.volumes.linking import SliceLinker, rule_for
from napari_claps.volumes.numbering import VolumeLinks, number_objects

if TYPE_CHECKING:
    from napari_claps.inference.pipeline import Pipeline
    from napari_claps.models.bundles.bundle import Bundle


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be segmented; `region` is (y0, x0, y1, x1) in pixels, end exclusive."""

    source: LayerSource
    targets: Sequence[str]
    settings: Settings
    modality: ModalityGuess | None = None
    slices: Sequence[int] | None = None
    region: tuple[int, int, int, int] | None = None

    @property
    def n_slices(self) -> int:
        """Number of slices that are asked for."""
        if self.slices is not None:
            return len(self.slices)
        return self.source.shape[0] if len(self.source.shape) == 3 else 1

    def linker(self) -> SliceLinker | None:
        """A linker for the objects of several slices, None if they are not to be linked."""
        if not self.settings.link_slices or self.n_slices < 2:
            return None
        spacing = self.source.spacing
        return SliceLinker(spacing, rule_for(spacing, score_threshold=self.settings.score_threshold))


@dataclass(frozen=True, eq=False)
class Slice:
    """What was found in a slice, and what of it cannot be in an eye."""

    result: SliceResult
    violations: tuple[Violation, ...]


@dataclass(frozen=True, eq=False)
class Linked:
    """The numbers of the objects of a volume, and the places to look at."""

    links: VolumeLinks
    doubts: list[Doubt]


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

    def run(self, request: Request, linker: SliceLinker | None = None) -> Generator[Slice, None, None]:
        """Yield slice by slice.

        The lock is held while a slice is computed and not between slices, so that an
        abandoned run blocks nobody. B-scans are entered into the linker; the z axis of
        other volumes is time or a slab, where nothing goes through.
        """
        image = request.source.image()
        with self._lock:
            results = self._pipeline(request.settings).run(
                image, request.targets, modality=request.modality, slices=request.slices, region=request.region)
        with closing(results):
            while True:
                with self._lock:
                    result = next(results, None)
                if result is None:
                    return
                if linker is not None and result.modality.modality is Modality.OCT:
                    linker.add(result)
                yield Slice(result, find_violations(result, image))

    def check_prompts(self, request: Request, slice_index: int) -> PromptCheck:
        """Run a slice with true and wrong texts, see `napari_claps.trust.prompt_check`."""
        image = request.source.image()
        with self._lock:
            return check_prompts(self._pipeline(request.settings), image, request.targets, slice_index=slice_index,
                                 modality=request.modality, region=request.region)

    @staticmethod
    def link(linker: SliceLinker) -> Linked:
        """Number the objects of the slices that were entered, and list the doubtful places."""
        links = number_objects(linker)
        return Linked(links, doubtful_places(links))

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
