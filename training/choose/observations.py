"""What a bundle says of the images it is calibrated on, and what is true; files of it, one for each fold."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.decision import Scores, decide
from napari_claps.inference.scales import scaled_shape
from napari_claps.inference.single_scale import segment_at_scale
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.calibration import presence_inputs
from napari_claps.trust.conformal import false_curve, inner_thresholds, missed_curve, outer_thresholds
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt
from training.data.held_out import Sample
from training.data.scales import targets_by_side

Observations = dict[tuple[Modality, str], list["Observation"]]
"""Of each pair."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the bundle says of one target in one held-out image, and what is true.

    Parameters
    ----------
    present : bool
    inputs : mapping
        Of `presence_inputs`.
    missed : ndarray or None
        Share of the true pixels below each of `outer_thresholds`; None where the target is absent.
    false : ndarray or None
        Of `false_curve` at `inner_thresholds`; None where nothing was found.
    patient : str
        Whose image it is.
    """

    present: bool
    inputs: Mapping[str, float]
    missed: np.ndarray | None
    false: np.ndarray | None
    patient: str


def observe(bundle: Bundle, pairs: Mapping[tuple[Modality, str], Pair], samples: Iterable[Sample], *,
            boxes: bool = True) -> Observations:
    """Run the bundle on images with the settings of `pairs`, as the pipeline does; without `boxes` none is found."""
    prompter = make_prompter("claps", bundle)
    found: Observations = defaultdict(list)
    for sample in samples:
        modality, shape = sample.modality, sample.image.shape[:2]
        inside = np.ones(shape, bool) if sample.field_of_view is None else sample.field_of_view
        asked = [t for t in sample.targets if (modality, t) in pairs]
        for side, names in targets_by_side(modality, asked, shape).items():
            queries = [Query(make_prompt(n, modality), pairs[modality, n]) for n in names]
            result = segment_at_scale(bundle, prompter, [sample.image.astype(np.float32) / 255], side, queries)[0]
            area = float(np.prod(shape)) / float(np.prod(scaled_shape(shape, side)))
            for i, (name, query) in enumerate(zip(names, queries, strict=True)):
                scores = Scores(result.probability[i], float(result.presence[i]), result.boxes[i] if boxes else ())
                # Ungated: whether it is absent is decided by the calibration that is fitted on these.
                ungated = replace(query, pair=replace(query.pair, presence=0.0, calibration={}))
                mask = decide(ungated, scores, area=area).mask > 0
                truth = sample.masks.get(name, np.zeros(shape, bool))
                found[modality, name].append(observation(scores, mask, truth, inside, query.pair.threshold,
                                                         sample.patient))
    return dict(found)


def observation(scores: Scores, mask: np.ndarray, truth: np.ndarray, inside: np.ndarray, threshold: float,
                patient: str) -> Observation:
    """Put down one target of one image; all arrays are (y, x), only pixels `inside` count."""
    probability, mask, truth = scores.probability[inside], mask[inside], truth[inside]
    inputs = presence_inputs(scores.presence, scores.probability, scores.boxes)
    missed = missed_curve(probability, truth, outer_thresholds(threshold)) if truth.any() else None
    false = false_curve(probability, mask, truth, inner_thresholds(threshold)) if mask.any() else None
    return Observation(bool(truth.any()), inputs, missed, false, patient)


def write_observations(path: Path, seen: Observations, pairs: Mapping[tuple[Modality, str], Pair]) -> None:
    """Write a JSON file with the observations of each pair and the threshold that they were made with."""
    content = {f"{modality}/{target}": {
        "threshold": pairs[modality, target].threshold,
        "seen": [{k: v.round(5).tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(one).items()}
                 for one in found]} for (modality, target), found in seen.items()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content))


def read_observations(files: Sequence[Path], pairs: Mapping[tuple[Modality, str], Pair]) -> Observations:
    """Read what `write_observations` wrote, one file after the other; pairs that are not asked for are left out.

    Raises
    ------
    InputError
        If a file is none, or a pair has another threshold by now: masks and curves were made with that one.
    """
    seen: Observations = defaultdict(list)
    for file in files:
        try:
            content = {(Modality(name.partition("/")[0]), name.partition("/")[2]):
                       (float(found["threshold"]), [_from_json(one) for one in found["seen"]])
                       for name, found in json.loads(file.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{file}: was not written by training.choose.calibrate --out ({error}).") from error
        for key, (threshold, found) in content.items():
            if key not in pairs:
                continue
            if pairs[key].threshold != threshold:
                raise InputError(f"{file}: {key[0]}/{key[1]} was observed at the threshold {threshold:g}, and the "
                                 f"pairs say {pairs[key].threshold:g}. Observe it again with these pairs.")
            seen[key] += found
    return dict(seen)


def _from_json(values: Mapping[str, Any]) -> Observation:
    curves = {k: None if values[k] is None else np.array(values[k]) for k in ("missed", "false")}
    return Observation(**{**values, **curves})
