"""The scales at which the images are looked at: those of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable

from napari_claps.inference.pipeline import Pipeline
from napari_claps.methods.base import Query
from napari_claps.models.bundles.manifest import Pair
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt


def targets_by_side(modality: Modality, targets: Iterable[str], shape: tuple[int, int]) -> dict[int, list[str]]:
    """Group targets by the long side in pixels at which the pipeline looks for them in an image of a shape (y, x)."""
    queries = [Query(make_prompt(target, modality), Pair(modality, target)) for target in targets]
    groups = Pipeline._by_side(queries, shape, zoom=1.0)
    return {side: [query.prompt.target for query in group] for side, group in groups.items()}
