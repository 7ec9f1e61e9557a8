"""Calibrate the pairs of a bundle on the held-out part of ``train``; ``val`` is never looked at.

``python -m training.choose.calibrate --bundle FOLDER --pairs pairs.json``

`pairs.json` is that of `training.choose.thresholds`, and gets for each pair (with ``--to FILE``, a copy of it does)

* ``calibration``: from scores to the probability that the target is there
  (`napari_claps.trust.calibration`), with those of the four inputs that predict best
  under cross-validation; and ``presence``, the probability below which the
  answer is "absent" (`absent_below`);
* ``inner`` and ``outer``: thresholds for inner and outer masks of several
  coverages (`napari_claps.trust.conformal`), with ``n_inner`` and ``n_outer``.

What too few images show gets none, and the bundle then refuses it. Synthetic
B-scans do not count: what holds on them says nothing about real ones.

With cross-validation, as in `training.choose.thresholds`, each fold's bundle is only
observed (``--fold 1/3 --no-boxes --out fold1.observed.json``), and the pairs
are calibrated on what all saw (``--observed fold1.observed.json ...``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from napari_claps.files.atomic import atomic_path
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.calibration import INPUTS, calibrated_presence, fit_calibration, log_loss
from napari_claps.trust.conformal import LEVELS, controlled, inner_thresholds, outer_thresholds
from napari_claps.types import Modality
from training.choose.observations import Observation, observe, read_observations, write_observations
from training.choose.pairs import is_answered, read_pairs
from training.choose.thresholds import presence_threshold
from training.data.held_out import held_out_images
from training.run.command import run_command

FOLDS = 44
"""Most parts of the cross-validation; with fewer patients each is left out once."""

MIN_IMAGES = 4
"""Held-out images with and without a target that are needed for a calibration."""

ENOUGH = 0.01
"""Gain in log loss for which another input is worth having."""

UNLIKELY = 0.1
"""Probability below which a target is called absent: a finding that is withheld cannot be corrected, and a false alarm
can, so that nine of these are put up with for one that is found."""

EVEN = 0.5
"""Highest presence threshold otherwise: what is more likely there than not is never called absent."""


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
    patients = [s.patient for s in seen]
    losses = {names: log_loss(cross_validated([{n: s.inputs[n] for n in names} for s in seen], present, patients),
                              present)
              for k in range(1, len(usable) + 1) for names in combinations(usable, k)}
    names = min((n for n in losses if losses[n] <= min(losses.values()) + ENOUGH), key=lambda n: (len(n), losses[n]))
    quality = {"presence_log_loss": losses[names],
               "prevalence_log_loss": log_loss(np.full(len(present), np.mean(present)), present)}
    return fit_calibration({n: [s.inputs[n] for s in seen] for n in names}, present), quality


def cross_validated(inputs: Sequence[Mapping[str, float]], present: Sequence[bool],
                    patients: Sequence[str]) -> np.ndarray:
    """Probability of each image by a calibration that was fitted without its patient."""
    n = len(present)
    # Parts are taken in turns from patients without and with the target, so that each has both.
    shown: dict[str, bool] = {}
    for patient, there in zip(patients, present, strict=True):
        shown[patient] = shown.get(patient, False) or there
    count = min(FOLDS, len(shown))
    part_of = {patient: k % count for k, patient in enumerate(sorted(shown, key=shown.__getitem__))}
    part = np.array([part_of[patient] for patient in patients])
    full = np.zeros(n)
    for k in np.unique(part):
        rest = [i for i in range(n) if part[i] != k]
        fitted = fit_calibration({name: [inputs[i][name] for i in rest] for name in inputs[0]},
                                 [present[i] for i in rest])
        for i in np.flatnonzero(part == k):
            full[i] = calibrated_presence(fitted, dict.fromkeys(INPUTS, 0.0) | inputs[i])
    return full


def absent_below(present: Sequence[float], n_absent: int) -> float:
    """Probability below which a target is called absent.

    `UNLIKELY`, where a fit to so few images without the target can give one as low (Platt's goal for them is
    ``1 / (n_absent + 2)``); else the rule of `presence_threshold`, but never above even odds.

    Parameters
    ----------
    present : sequence of float
        Calibrated presence of the images that show the target.
    n_absent : int
        Images without it.
    """
    return UNLIKELY if 1 / (n_absent + 2) < UNLIKELY else min(presence_threshold(present), EVEN)


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
    if len(present) >= MIN_IMAGES and len(seen) - len(present) >= MIN_IMAGES:
        calibration, quality = choose_calibration(seen)
        lowest = absent_below([calibrated_presence(calibration, s.inputs) for s in present], len(seen) - len(present))
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
    parser.add_argument("--bundle", help="name or folder; not needed with --observed")
    parser.add_argument("--pairs", type=Path, required=True, help="file of training.choose.thresholds")
    parser.add_argument("--to", type=Path, help="write the calibrated pairs there (default: in place)")
    parser.add_argument("--dataset", action="append", default=[], help="only these data sets")
    parser.add_argument("--limit", type=int, default=1000, help="images of each data set, at most")
    parser.add_argument("--fold", default="", metavar="K/N", help="this fold of train, not the held-out part")
    parser.add_argument("--no-boxes", action="store_true", help="the detector has learnt from these images")
    parser.add_argument("--out", type=Path, help="write what is seen to this file and leave the pairs as they are")
    parser.add_argument("--observed", type=Path, action="append", default=[],
                        help="files of --out: calibrate on these and look at nothing")
    a = parser.parse_args()
    if not (a.bundle or a.observed):
        parser.error("give the --bundle to look at, or what was --observed")
    content = {"pairs": read_pairs(a.pairs)}
    known = {f.name for f in fields(Pair)}
    pairs = {(Modality(p["modality"]), p["target"]): Pair(**{k: v for k, v in p.items() if k in known} |
                                                          {"modality": Modality(p["modality"])})
             for p in content["pairs"] if is_answered(p)}
    seen = read_observations(a.observed, pairs) if a.observed else observe(
        load_bundle(a.bundle), pairs, held_out_images(a.dataset, a.limit, a.fold), boxes=not a.no_boxes)
    if a.out:
        write_observations(a.out, seen, pairs)
        return
    content["pairs"] = [calibrate(p, seen[key]) if (key := (Modality(p["modality"]), p["target"])) in seen else p
                        for p in content["pairs"]]
    with atomic_path(a.to or a.pairs) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    for p in content["pairs"]:
        if "n_outer" in p:
            inputs = " + ".join(n for n in INPUTS if n in p.get("calibration", {})) or "not calibrated"
            print(f"{p['modality']:5} {p['target']:24} presence by {inputs}, absent below {p['presence']}; "
                  f"coverage {', '.join(k for k in p['outer'] if k in p['inner']) or 'none'} "
                  f"({p['n_outer']} with it, {p['n_inner']} found)")


if __name__ == "__main__":
    sys.exit(run_command(main))
