"""The CLAPS prompter: GroundingDINO finds boxes from text with the modality signature."""

from __future__ import annotations

from collections.abc import Sequence

from napari_claps.models.bundle import Bundle
from napari_claps.models.clip import ImageFeatures
from napari_claps.prompters import ViewBox
from napari_claps.types import Prompt


class ClapsPrompter:
    """Boxes from the bundle's detector, on features that were already computed."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def find(self, features: ImageFeatures, prompts: Sequence[Prompt], thresholds: Sequence[float],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """See `Prompter.find`."""
        detector = self._bundle.detector
        text = self._bundle.detector_text(tuple(p.text for p in prompts))
        levels = features.levels[-len(detector.config.channels):]
        found = detector.detect(levels, text, view_size=view_size, threshold=list(thresholds))
        return [
            [ViewBox((x0, y0, x1, y1), index, score) for (x0, y0, x1, y1), index, score in
             zip(d.boxes.tolist(), d.text.tolist(), d.scores.tolist(), strict=True)]
            for d in found
        ]
