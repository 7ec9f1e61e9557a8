"""The CLAPS prompter: GroundingDINO finds boxes from text with the modality signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from napari_claps.methods.base import Query, ViewBox
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.networks.clip import EncodedViews
from napari_claps.models.networks.detections import Detections
from napari_claps.models.networks.detector import RetinalDetector
from napari_claps.types import Modality
from napari_claps.words.vocabulary import class_text, targets_of

NEVER = 2.0
"""A threshold that no score reaches."""


class ClapsPrompter:
    """Boxes from the bundle's detector, on features that were already computed."""

    text_weight: float | None = None

    def __init__(self, bundle: Bundle, *, seed: int = 0) -> None:  # it draws no random numbers
        self._bundle = bundle
        if bundle.detector is None:  # nothing to weigh the text's own masks against
            self.text_weight = 1.0

    def find(self, features: EncodedViews, queries: Sequence[Query],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """See `Prompter.find`."""
        detector = self._bundle.detector
        if detector is None:
            return [[] for _ in features.views]
        asked = [query.prompt.text for query in queries]
        # The detector reads all texts at once, and a score depends a little on the others. Ours always gets the same
        # ones, so that a target has the same boxes whatever is asked with it; official ones pay for every text.
        texts = compact_texts(queries[0].pair.modality) if isinstance(detector, RetinalDetector) else []
        texts = list(dict.fromkeys([*texts, *asked]))
        owners = [[i for i, own in enumerate(asked) if own == text] for text in texts]
        lowest = [min((queries[i].pair.box_threshold for i in group), default=NEVER) for group in owners]
        detect: Callable[..., list[Detections]] = detector.find_boxes  # each detector reads its own kind of texts
        found = detect(features, self._bundle.detector_text(tuple(texts)), threshold=lowest)
        return [
            [ViewBox((x0, y0, x1, y1), owner, score) for (x0, y0, x1, y1), index, score in
             zip(d.boxes.tolist(), d.text.tolist(), d.scores.tolist(), strict=True) for owner in owners[index]]
            for d in found
        ]


def compact_texts(modality: Modality) -> list[str]:
    """Class texts of all targets of a modality that boxes can surround."""
    return [class_text(t, modality) for t in targets_of(modality) if not t.kind.is_whole]
