"""A pipeline without networks for GUI tests: its speed, its failures and its findings are in the test's hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from napari_claps.models.bundles.manifest import Pair
from napari_claps.settings import Settings
from napari_claps.types import Box, Modality, ModalityGuess, RetinalImage, SliceResult
from napari_claps.words.vocabulary import make_prompt

CALIBRATED = {"n_inner": 12, "n_outer": 10, "inner": {"0.8": 0.6, "0.9": 0.9}, "outer": {"0.8": 0.1, "0.9": 0.02}}
"""A pair with inner and outer masks."""

LESS = CALIBRATED | {"n_outer": 4, "inner": {"0.8": 0.6}, "outer": {"0.8": 0.1}}

PAIRS = tuple(
    Pair(modality, target, threshold=0.3, dice=dice, n_images=20, **calibration)
    for modality, target, dice, calibration in (
        (Modality.OCT, "drusen", 0.7, CALIBRATED), (Modality.OCT, "intraretinal_fluid", 0.4, LESS),
        (Modality.OCT, "retina", None, {}), (Modality.CFP, "vessel", 0.8, {"n_inner": 2, "n_outer": 2}),
        (Modality.CFP, "optic_disc", 0.9, {}),
    )
)  # fmt: skip

def _pair(modality, target):
    return next((pair for pair in PAIRS if (pair.modality, pair.target) == (modality, target)), None)


MANIFEST = SimpleNamespace(
    name="fake", version="1", folder=Path("fake"), notice="for tests", licence="none", sha256="0" * 64, pairs=PAIRS,
    modalities=[Modality.OCT, Modality.CFP], training={}, mirrored=(), pair=_pair,
    targets=lambda modality: [pair.target for pair in PAIRS if pair.modality == modality],
)


class FakePipeline:
    """Finds one object per target in every slice, at a place that depends on slice and target."""

    bundle = SimpleNamespace(manifest=MANIFEST, device="cpu")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.error: Exception | None = None
        self.error_at = 0
        self.before_slice: Callable[[int], None] = lambda index: None
        self.slices_done: list[int] = []
        self.detected: list[str] = []
        self.modality: ModalityGuess | None = None
        self.image: RetinalImage | None = None
        self.settings: Settings | None = None
        self.region: tuple[int, int, int, int] | None = None
        self.find: Callable[..., SliceResult] = result_of
        self.threads: set[str] = set()

    def with_settings(self, settings: Settings | None = None, **values) -> FakePipeline:
        """Itself, as if made with these settings."""
        self.settings = settings or replace(self.settings, **values)
        return self

    def method_settings(self, modality) -> dict:
        """It has none."""
        return {}

    def prompts(self, targets, modality):
        """Of known targets and free texts."""
        return tuple(make_prompt(target, modality) for target in targets)

    def detect_modality(self, image: RetinalImage) -> ModalityGuess:
        """A volume is OCT, a plane a fundus photograph."""
        self.detected.append(image.source)
        modality = Modality.OCT if image.is_volume else Modality.CFP
        return ModalityGuess(modality, 0.9, "detected", {str(modality): 0.9})

    def run(self, image: RetinalImage, targets, *, modality=None, slices=None, region=None) -> Iterator[SliceResult]:
        """Yield a result per slice."""
        guess = modality or self.detect_modality(image)
        self.image, self.modality, self.region = image, guess, region
        prompts = self.prompts(targets, guess.modality)
        for index in slices if slices is not None else range(image.n_slices):
            self.threads.add(threading.current_thread().name)
            self.before_slice(index)
            time.sleep(self.seconds)
            if self.error is not None and index >= self.error_at:
                raise self.error
            self.slices_done.append(index)
            yield self.find(index, guess, prompts, image.plane_shape)


def result_of(index, guess, prompts, plane_shape) -> SliceResult:
    """One square object per prompt; its box has the exact size of the mask."""
    masks, boxes = {}, []
    for number, prompt in enumerate(prompts):
        mask = np.zeros(plane_shape, np.uint16)
        y, x = 2 + number * 6, 3 + index
        mask[y : y + 5, x : x + 7] = 1
        masks[prompt.label] = mask
        boxes.append(Box(y, x, y + 5, x + 7, label=prompt.label, score=0.5 + 0.1 * number, slice_index=index,
                         instance=1))
    return SliceResult(index, guess, prompts, masks, tuple(boxes), {p.label: 0.8 for p in prompts}, {"all": 0.0})
