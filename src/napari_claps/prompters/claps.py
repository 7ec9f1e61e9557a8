"""The CLAPS prompter: GroundingDINO finds boxes from text with the modality signature."""

from __future__ import annotations

from collections.abc import Sequence

from napari_claps.models.bundle import Bundle
from napari_claps.models.clip import ImageFeatures
from napari_claps.models.manifest import Pair
from napari_claps.prompters import ViewBox
from napari_claps.types import Prompt


class ClapsPrompter:
    """Boxes from the bundle's detector, on features that were already computed."""

    text_weight: float | None = None

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        if bundle.detector is None:  # nothing to weigh the text's own masks against
            self.text_weight = 1.0

    def find(self, features: ImageFeatures, prompts: Sequence[Prompt], pairs: Sequence[Pair],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """See `Prompter.find`."""
        detector = self._bundle.detector
        if detector is None:
            return [[] for _ in features.views]
        text = self._bundle.detector_text(tuple(p.text for p in prompts))
        found = detector.find_boxes(features, text, threshold=[p.box_threshold for p in pairs])
        return [
            [ViewBox((x0, y0, x1, y1), index, score) for (x0, y0, x1, y1), index, score in
             zip(d.boxes.tolist(), d.text.tolist(), d.scores.tolist(), strict=True)]
            for d in found
        ]
