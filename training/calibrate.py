"""Calibrate the pairs of a bundle on the held-out part of ``train``; ``val`` is never looked at.

``python -m training.calibrate --bundle FOLDER --pairs pairs.json``

`pairs.json` is that of `training.choose_thresholds`, and gets for each pair

* ``calibration``: from scores to the probability that the target is there
  (`napari_claps.calibration`), with those of the four inputs that predict best
  under cross-validation; and ``presence``, the probability below which the
  answer is "absent": the rule of `choose_thresholds`, but never above even odds;
* ``inner`` and ``outer``: thresholds for inner and outer masks of several
  coverages (`napari_claps.conformal`), with ``n_inner`` and ``n_outer``.

What too few images show gets none, and the bundle then refuses it. Synthetic
B-scans do not count: what holds on them says nothing about real ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from napari_claps.calibration import INPUTS, calibrated_presence, fit_calibration, log_loss, presence_inputs
from napari_claps.conformal import LEVELS, controlled, false_curve, inner_thresholds, missed_curve, outer_thresholds
from napari_claps.field import segment_field
from napari_claps.findings import Scores, decide
from napari_claps.io.atomic import atomic_path
from napari_claps.models.bundle import Bundle, load_bundle
from napari_claps.models.manifest import Pair
from napari_claps.prompters import make_prompter
from napari_claps.types import Modality
from napari_claps.views import scaled_shape
from napari_claps.vocabulary import make_prompt
from training.choose_thresholds import Sample, held_out_images, presence_threshold
from training.export import is_answered, read_pairs
from training.stage import run_command
from training.tiles import targets_by_side

FOLDS = 44
"""Most parts of the cross-validation; with fewer images each is left out once."""

MIN_CLASS = 4
"""Held-out images with and without a target that are needed for a calibration."""

ENOUGH = 0.01
"""Gain in log loss for which another input is worth having."""

EVEN = 0.5
"""Highest presence threshold: what is more likely there than not is never called absent."""


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
    """

    present: bool
    inputs: Mapping[str, float]
    missed: np.ndarray | None
    false: np.ndarray | None


def observe(bundle: Bundle, pairs: Mapping[tuple[Modality, str], Pair],
            samples: Iterable[Sample]) -> dict[tuple[Modality, str], list[Observation]]:
    """Run the bundle on images with the settings of `pairs`, as the pipeline does."""
    prompter = make_prompter("claps", bundle)
    found: dict[tuple[Modality, str], list[Observation]] = defaultdict(list)
    for modality, image, masks, targets, fov in samples:
        shape = image.shape[:2]
        inside = np.ones(shape, bool) if fov is None else fov
        for side, names in targets_by_side(modality, [t for t in targets if (modality, t) in pairs], shape).items():
            prompts = [make_prompt(n, modality) for n in names]
            own = [pairs[modality, n] for n in names]
            result = segment_field(bundle, prompter, [image.astype(np.float32) / 255], side, prompts, own)[0]
            area = float(np.prod(shape)) / float(np.prod(scaled_shape(shape, side)))
            for i, (name, prompt, pair) in enumerate(zip(names, prompts, own, strict=True)):
                scores = Scores(result.probability[i], float(result.presence[i]), result.boxes[i])
                # Ungated: whether it is absent is decided by the calibration that is fitted on these.
                mask = decide(prompt, replace(pair, presence=0.0, calibration={}), scores, area=area).mask > 0
                truth = masks.get(name, np.zeros(shape, bool))
                found[modality, name].append(observation(scores, mask, truth, inside, pair.threshold))
    return dict(found)


def observation(scores: Scores, mask: np.ndarray, truth: np.ndarray, inside: np.ndarray,
                threshold: float) -> Observation:
    """Put down one target of one image; all arrays are (y, x), only pixels `inside` count."""
    probability, mask, truth = scores.probability[inside], mask[inside], truth[inside]
    inputs = presence_inputs(scores.presence, scores.probability, scores.boxes)
    missed = missed_curve(probability, truth, outer_thresholds(threshold)) if truth.any() else None
    false = false_curve(probability, mask, truth, inner_thresholds(threshold)) if mask.any() else None
    return Observation(bool(truth.any()), inputs, missed, false)


def choose_calibration(seen: Sequence[Observation]) -> tuple[dict[str, float], dict[str, float]]:
    """Fit the calibration with the fewest inputs that is as good as the best under cross-validation.

    Returns
    -------
    calibration : dict
    quality : dict
        Cross-validated ``presence_log_loss``, and ``prevalence_log_loss``, that of the mere share of present.
    """
    present = [s.present for s in seen]
    usable = [n for n in INPUTS if len({s.inputs[n] for s in seen}) > 1] or list(INPUTS[:1])
    losses = {names: log_loss(cross_validated([{n: s.inputs[n] for n in names} for s in seen], present), present)
              for k in range(1, len(usable) + 1) for names in combinations(usable, k)}
    names = min((n for n in losses if losses[n] <= min(losses.values()) + ENOUGH), key=lambda n: (len(n), losses[n]))
    quality = {"presence_log_loss": losses[names],
               "prevalence_log_loss": log_loss(np.full(len(present), np.mean(present)), present)}
    return fit_calibration({n: [s.inputs[n] for s in seen] for n in names}, present), quality


def cross_validated(inputs: Sequence[Mapping[str, float]], present: Sequence[bool]) -> np.ndarray:
    """Probability of each image by a calibration that was fitted without it."""
    n = len(present)
    # Parts are taken in turns from absent and present images, so that each has both.
    part = np.empty(n, int)
    part[np.argsort(present, kind="stable")] = np.arange(n) % min(FOLDS, n)
    full = np.zeros(n)
    for k in np.unique(part):
        rest = [i for i in range(n) if part[i] != k]
        fitted = fit_calibration({name: [inputs[i][name] for i in rest] for name in inputs[0]},
                                 [present[i] for i in rest])
        for i in np.flatnonzero(part == k):
            full[i] = calibrated_presence(fitted, dict.fromkeys(INPUTS, 0.0) | inputs[i])
    return full


def bands(seen: Sequence[Observation], absent: Sequence[bool], threshold: float) -> dict[str, Any]:
    """Thresholds of inner and outer masks for every coverage that these images can give.

    Parameters
    ----------
    seen : sequence of Observation
    absent : sequence of bool
        Whether the presence of each calls it absent: nothing is found then, and all of it is missed.
    threshold : float
        Of the mask.
    """
    missed = [np.ones_like(s.missed) if a else s.missed for s, a in zip(seen, absent, strict=True)
              if s.missed is not None]
    false = [s.false for s, a in zip(seen, absent, strict=True) if s.false is not None and not a]
    result: dict[str, Any] = {"outer": {}, "inner": {}, "n_outer": len(missed), "n_inner": len(false)}
    curves = {"outer": (missed, outer_thresholds(threshold)), "inner": (false, inner_thresholds(threshold))}
    for level in LEVELS:
        for name, (losses, thresholds) in curves.items():
            place = controlled(np.array(losses), level) if losses else None
            if place is not None:
                result[name][f"{level:g}"] = round(float(thresholds[place]), 4)
    return result


def calibrate(pair: Mapping[str, Any], seen: Sequence[Observation]) -> dict[str, Any]:
    """Return a pair of ``pairs.json`` with what its observations give; earlier calibrations are dropped."""
    old = {"calibration", "inner", "outer", "n_inner", "n_outer"}
    made = {k: v for k, v in pair.items() if k not in old}
    present = [s for s in seen if s.present]
    if len(present) >= MIN_CLASS and len(seen) - len(present) >= MIN_CLASS:
        calibration, quality = choose_calibration(seen)
        lowest = min(presence_threshold([calibrated_presence(calibration, s.inputs) for s in present]), EVEN)
        absent = [calibrated_presence(calibration, s.inputs) < lowest for s in seen]
        made |= {"calibration": {k: round(v, 6) for k, v in calibration.items()}, "presence": lowest}
        made |= {k: round(v, 4) for k, v in quality.items()}
    else:
        if pair.get("calibration"):
            made["presence"] = 0.0  # it was a probability, and the scores are none now
        absent = [expit(s.inputs["presence"]) < made["presence"] for s in seen]
    return made | bands(seen, absent, float(pair["threshold"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="file of choose_thresholds, changed in place")
    parser.add_argument("--dataset", action="append", default=[], help="only these data sets")
    parser.add_argument("--limit", type=int, default=1000, help="images of each data set, at most")
    a = parser.parse_args()
    content = {"pairs": read_pairs(a.pairs)}
    known = {f.name for f in fields(Pair)}
    pairs = {(Modality(p["modality"]), p["target"]): Pair(**{k: v for k, v in p.items() if k in known} |
                                                          {"modality": Modality(p["modality"])})
             for p in content["pairs"] if is_answered(p)}
    seen = observe(load_bundle(a.bundle), pairs, held_out_images(a.dataset, a.limit))
    content["pairs"] = [calibrate(p, seen[key]) if (key := (Modality(p["modality"]), p["target"])) in seen else p
                        for p in content["pairs"]]
    with atomic_path(a.pairs) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    for p in content["pairs"]:
        if "n_outer" in p:
            inputs = " + ".join(n for n in INPUTS if n in p.get("calibration", {})) or "not calibrated"
            print(f"{p['modality']:5} {p['target']:24} presence by {inputs}, absent below {p['presence']}; "
                  f"coverage {', '.join(k for k in p['outer'] if k in p['inner']) or 'none'} "
                  f"({p['n_outer']} with it, {p['n_inner']} found)")


if __name__ == "__main__":
    sys.exit(run_command(main))
