"""Score probability maps of any network as `training.report.evaluate` scores the pipeline, and write the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.evaluate import ImageScore, score_masks, summarise
from napari_claps.files.atomic import atomic_path
from napari_claps.words.vocabulary import TARGETS, Kind
from training.choose.probability import PrecisionRecall
from training.data.records import Record, read_mask, read_rgb, read_truth


def dice(found: np.ndarray, truth: np.ndarray, fov: np.ndarray | None) -> float:
    """Dice of two masks (y, x) inside the field of view."""
    if fov is not None:
        found, truth = found & fov, truth & fov
    return 2 * float(np.count_nonzero(found & truth)) / max(np.count_nonzero(found) + np.count_nonzero(truth), 1)


@dataclass(frozen=True, eq=False)
class Annotated:
    """An image (y, x, 3) float32 in [0, 1], the masks (y, x) of all its annotated targets, and its visible field."""

    record: Record
    image: np.ndarray
    truth: Mapping[str, np.ndarray]
    field_of_view: np.ndarray | None

    @classmethod
    def read(cls, record: Record) -> Annotated:
        """Read all files of a record; a target without a file is absent."""
        image = read_rgb(record.image)
        shape = image.shape[:2]
        truth = {t: read_truth(record, t, shape) for t in record.targets}
        fov = read_mask(record.field_of_view, shape) if record.field_of_view else None
        return cls(record, image.astype(np.float32) / 255, truth, fov)


@dataclass(eq=False)
class ScoreSheet:
    """Scores of images, and their pixels."""

    images: list[ImageScore] = field(default_factory=list)
    curves: dict[tuple[str, str], PrecisionRecall] = field(default_factory=dict)

    def add(self, item: Annotated, target: str, probability: np.ndarray, *, threshold: float,
            presence: float | None = None) -> None:
        """Score one target of an image; `presence` is the highest probability unless given."""
        truth, record, is_tree = item.truth[target], item.record, TARGETS[target].kind is Kind.TREE
        masks = score_masks(probability >= threshold, truth, field=item.field_of_view, centreline=is_tree)
        there = float(probability.max()) if presence is None else presence
        self.images.append(ImageScore(record.dataset, record.stem, target, masks, there))
        curve = self.curves.setdefault((record.dataset, target), PrecisionRecall())
        curve.add(probability, truth, item.field_of_view)

    def write(self, path: Path, facts: Mapping[str, Any], *, seed: int = 0) -> list[dict[str, Any]]:
        """Write `facts` and one row per data set and target as JSON; returns the rows."""
        table = summarise(self.images, seed=seed)
        rows = json.loads(table.to_json(orient="records", double_precision=6))
        for row in rows:
            area = self.curves[row["dataset"], row["target"]].area()
            row["aupr"] = None if area != area else round(area, 6)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({**facts, "summary": rows}, indent=1) + "\n", encoding="utf-8")
        return rows
