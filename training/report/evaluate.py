"""How good a bundle is on the real images: only the image and the target names are given.

``python -m training.report.evaluate --bundle claps-tiny --split val --out REPORT`` writes into REPORT

* ``scores.csv``: one row per image and target; ``images.csv``: modality and seconds per image,
* ``summary.csv`` and ``summary.json``: per data set and target, with counts and intervals,
* ``reliability.csv`` and ``reliability.png``: whether the calibrated presence keeps its word,
* with ``--coverage 0.9``, ``bands.csv``: whether the inner and outer masks keep theirs,
* ``aupr.csv``: area under the precision-recall curve of all pixels, at native resolution,
* ``report.md``: the same to read, and ``worst/``: the three worst images of each target, ``failures.png``: those
  that may be shown, as maps of what was missed.

The pictures show real images: REPORT does not belong into the repository.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from napari_claps.errors import ClapsError
from napari_claps.evaluate import ImageScore, SliceBoxes, object_boxes, score_masks
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.pipeline import Pipeline
from napari_claps.io import read
from napari_claps.settings import Settings
from napari_claps.trust.conformal import band_level
from napari_claps.types import ModalityGuess, RetinalImage, SliceResult
from napari_claps.words.vocabulary import TARGETS, Kind
from training.choose.probability import PrecisionRecall, ProbabilityPipeline
from training.data.records import Record, first_of_each, read_mask, read_truth, segmentation_records
from training.report.failures import Failure
from training.report.files import write_report
from training.report.reliability import BandScore, score_band

WORST = 3
"""Images drawn per target."""


@dataclass
class Evaluation:
    """Everything measured on some images.

    `images` has one row per image; `not_in_bundle` counts the annotated targets that the bundle was not made for;
    `bands` has one row per image and target that was calibrated for the `coverage`, if there is one. `curves` has the
    pixels of every data set and target, if the pipeline keeps its probability maps.
    """

    coverage: float | None = None
    bands: list[BandScore] = field(default_factory=list)
    scores: list[ImageScore] = field(default_factory=list)
    images: list[dict[str, object]] = field(default_factory=list)
    worst: dict[str, list[Failure]] = field(default_factory=dict)
    not_in_bundle: dict[str, int] = field(default_factory=dict)
    curves: dict[tuple[str, str], PrecisionRecall] = field(default_factory=dict)

    def add(self, pipeline: Pipeline, record: Record) -> None:
        """Run the pipeline on one image and score every annotated target."""
        manifest = pipeline.bundle.manifest
        known = [t for t in record.targets if manifest.pair(record.modality, t)]
        for target in set(record.targets) - set(known):
            name = f"{record.modality} {target}"
            self.not_in_bundle[name] = self.not_in_bundle.get(name, 0) + 1
        image = read(record.image)
        start = time.perf_counter()
        guess = pipeline.detect_modality(image)
        # With the wrong modality some targets are refused: nothing is found, and that counts.
        asked = [t for t in known if manifest.pair(guess.modality, t)]
        answers = self._answers(pipeline, image, asked, guess)
        seconds = time.perf_counter() - start
        self.images.append(
            {
                "dataset": record.dataset,
                "image": record.stem,
                "modality": str(record.modality),
                "detected": str(guess.modality),
                "probability": guess.probability,
                "right": guess.modality is record.modality,
                "targets": len(asked),
                "seconds": seconds,
            }
        )
        field_of_view = read_mask(record.field_of_view, image.plane_shape) if record.field_of_view else None
        for target in known:
            self._score(record, target, image, answers.get(target), field_of_view)
            if isinstance(pipeline, ProbabilityPipeline):
                probability = pipeline.probability[target] if target in answers else np.zeros(image.plane_shape)
                curve = self.curves.setdefault((record.dataset, target), PrecisionRecall())
                curve.add(probability, read_truth(record, target, image.plane_shape), field_of_view)

    def _answers(self, pipeline: Pipeline, image: RetinalImage, asked: Sequence[str],
                 guess: ModalityGuess) -> dict[str, SliceResult]:
        """Run on all targets; those that were calibrated for the coverage get inner and outer masks."""
        if self.coverage is None:
            groups = [(pipeline, list(asked))]
        else:
            pairs = {t: pipeline.bundle.manifest.pair(guess.modality, t) for t in asked}
            able = [t for t in asked if band_level(pairs[t], self.coverage)]
            banded = type(pipeline)(pipeline.bundle, replace(pipeline.settings, coverage=self.coverage))
            if isinstance(pipeline, ProbabilityPipeline):
                banded.probability = pipeline.probability
            groups = [(banded, able), (pipeline, [t for t in asked if t not in able])]
        return {t: result for runner, targets in groups if targets
                for result in runner.run(image, targets, modality=guess) for t in targets}

    def _score(
        self,
        record: Record,
        target: str,
        image: RetinalImage,
        result: SliceResult | None,
        field_of_view: np.ndarray | None,
    ) -> None:
        truth = read_truth(record, target, image.plane_shape)
        predicted = result.masks[target] > 0 if result else np.zeros(image.plane_shape, bool)
        kind = TARGETS[target].kind
        boxes = [b for b in result.boxes if b.label == target] if result else []
        corners = np.array([(b.y0, b.x0, b.y1, b.x1) for b in boxes])
        slice_boxes = SliceBoxes(corners, np.array([b.score for b in boxes]), object_boxes(truth))
        score = ImageScore(
            dataset=record.dataset,
            image=record.stem,
            target=target,
            masks=score_masks(
                predicted, truth, field=field_of_view, spacing=image.plane_spacing, centreline=kind is Kind.TREE
            ),
            presence=float(result.presence[target]) if result else 0.0,
            boxes=(slice_boxes,) if kind in (Kind.OBJECT, Kind.LESION) else (),
        )
        self.scores.append(score)
        if result and target in result.outer:
            inside = np.ones(image.plane_shape, bool) if field_of_view is None else field_of_view
            self.bands.append(score_band(record, target, result, truth, inside))
        if score.masks.present:
            worst = self.worst.setdefault(target, [])
            heapq.heappush(worst, Failure(score.masks.dice, record, predicted, truth))
            if len(worst) > WORST:
                heapq.heappop(worst)


def evaluate(pipeline: Pipeline, records: Iterable[Record], *, coverage: float | None = None) -> Evaluation:
    """Run the pipeline on every image, with its settings, and compare with the masks.

    A target that the image's data set did not annotate is unknown and not looked for; an annotated one without
    a mask is absent. Vessels count inside the field of view, where there is one.
    """
    evaluation = Evaluation(coverage)
    progress = tqdm(list(records), unit="image", mininterval=2)
    for record in progress:
        progress.set_description(record.dataset, refresh=False)
        evaluation.add(pipeline, record)
    return evaluation


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=Settings().bundle, help="name or folder (default: %(default)s)")
    parser.add_argument("--split", choices=("val", "train"), default="val")
    parser.add_argument("--holdout", action="store_true", help="with --split train: only its held-out part")
    parser.add_argument("--dataset", action="append", default=[], help="restrict to this data set; may be repeated")
    parser.add_argument("--limit", type=int, help="at most so many images of each data set")
    parser.add_argument("--modality", default="auto", help="of all images, for a bundle whose CLIP is not aligned "
                        "(default: detected)")
    parser.add_argument("--coverage", type=float, help="measure inner and outer masks of this coverage too")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT")
    options = parser.parse_args(arguments)
    if options.holdout and options.split != "train":
        parser.error("--holdout is a part of --split train")
    try:
        records = segmentation_records(
            options.split, held_out=True if options.holdout else None, datasets=tuple(options.dataset)
        )
        pipeline = ProbabilityPipeline.from_settings(Settings(bundle=options.bundle, device=options.device,
                                                              modality=options.modality))
        evaluation = evaluate(pipeline, first_of_each(records, options.limit), coverage=options.coverage)
        manifest = pipeline.bundle.manifest
        about = {
            "bundle": manifest.name,
            "version": manifest.version,
            "sha256": manifest.sha256,
            "part": f"{options.split}{', held out' if options.holdout else ''}",
            "limit": options.limit,
            "modality": options.modality,
            "device": str(pipeline.bundle.device),
        }
        if evaluation.not_in_bundle:
            about["not_in_bundle"] = evaluation.not_in_bundle
        areas = [{"dataset": d, "target": t, "aupr": c.area()} for (d, t), c in evaluation.curves.items()]
        about["aupr"] = [row for row in areas if row["aupr"] == row["aupr"]]
        with atomic_path(options.out / "aupr.csv") as temporary:
            pd.DataFrame(areas, columns=["dataset", "target", "aupr"]).to_csv(temporary, index=False)
        if options.coverage is not None:
            about["coverage"] = options.coverage
        write_report(
            options.out,
            about,
            evaluation.scores,
            evaluation.images,
            evaluation.worst,
            calibrated={(str(p.modality), p.target) for p in manifest.pairs if p.calibration},
            bands=evaluation.bands,
            seed=options.seed,
        )
        print((options.out / "report.md").read_text(encoding="utf-8"))
    except ClapsError as error:
        print(f"training.report.evaluate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
