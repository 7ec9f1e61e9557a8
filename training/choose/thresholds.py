"""Choose thresholds per (modality, target) on the held-out part of ``train``; ``val`` is never looked at.

``python -m training.choose.thresholds --bundle FOLDER --out pairs.json``

For each pair: the share of the text-prompted mask against the one from
detected boxes (less than all only where boxes gain more than their standard
error), the probability threshold (both by the mean Dice of images that
show the target), and the presence below which the answer is "absent". For that
there is one rule (`presence_threshold`): the highest that keeps
`MIN_SENSITIVITY` of the images with the target, because a finding that is
withheld cannot be corrected, and a false alarm can. `training.choose.calibrate`, the
next step, turns scores into probabilities, with a threshold of their own.

Pairs whose mask does not depend on the text are no answers and are left out:
the text must do better on its own target than every other text at the same
scale of the same images, by `MIN_TEXT_GAIN` in Dice.

Where hardly an image is held out, thresholds come from cross-validation: train
with ``fold = "1/4"`` in the configuration, measure that fold of each bundle
(``--dataset D --fold 1/4 --out fold1.json``), and choose from all
(``--rows fold1.rows.json --rows fold2.rows.json ... --pairs OLD.json``). A
detector that has learnt from the fold is left out of it: ``--no-boxes``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.inference.single_scale import segment_at_scale
from napari_claps.inference.tile_prediction import is_boxed
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt
from training.choose.pairs import MIN_CLASS, pairs_of, read_pairs, trained_pairs
from training.choose.scoring import dice
from training.data.held_out import SYNTHETIC, Sample, held_out_samples
from training.data.scales import targets_by_side
from training.run.command import run_command

SHARES = (1.0, 0.75, 0.5)
THRESHOLDS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
MIN_TEXT_GAIN = 0.05
"""Masks that do not depend on the text gain nothing."""
MIN_SENSITIVITY = 0.95


def measure(bundle: Bundle, samples: Iterable[Sample], *,
            boxes: bool = True) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Dice of every setting, and the presence score, of each image and target.

    Without `boxes` no mask gets a share from them: a detector that has learnt from the samples knows too well.
    """
    prompter = make_prompter("claps", bundle)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        modality, fov = sample.modality, sample.field_of_view
        asked = [t for t in sample.targets if bundle.manifest.pair(modality, t)]
        for side, names in targets_by_side(modality, asked, sample.image.shape[:2]).items():
            queries = [Query(make_prompt(n, modality), p) for n in names if (p := bundle.manifest.pair(modality, n))]
            plane = [sample.image.astype(np.float32) / 255]
            boxed = [boxes and is_boxed(q.prompt, bundle) for q in queries]
            shares = (1.0, 0.0) if any(boxed) else (1.0,)
            text, *rest = (segment_at_scale(bundle, prompter, plane, side,
                                            [replace(q, pair=replace(q.pair, text_weight=w)) for q in queries])[0]
                           for w in shares)
            by_box = rest[0] if rest else text
            for i, name in enumerate(names):
                truth = sample.masks.get(name)
                row: dict[str, Any] = {"presence": float(text.presence[i]), "present": truth is not None,
                                       "patient": sample.patient}
                if truth is not None:
                    row["by_text"] = {other: dice(text.probability[j] >= 0.5, truth, fov)
                                      for j, other in enumerate(names)}
                    for share in SHARES if boxed[i] else (1.0,):
                        p = share * text.probability[i] + (1 - share) * by_box.probability[i]
                        for threshold in THRESHOLDS:
                            row[f"{share}/{threshold}"] = dice(p >= threshold, truth, fov)
                rows[str(modality), name].append(row)
    return rows


def text_gain(rows: list[dict[str, Any]], target: str, among: set[str]) -> float | None:
    """Mean Dice of the right text less that of the best other text; None where no other was asked."""
    tables = [r["by_text"] for r in rows if set(r.get("by_text", {})) & among - {target}]
    if not tables:
        return None
    others = {t for table in tables for t in table} & among - {target}
    best = max(np.mean([table[o] for table in tables if o in table]) for o in others)
    return round(float(np.mean([table[target] for table in tables]) - best), 4)


def told_apart(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float | None]:
    """Targets of one modality whose text matters, with their gain.

    Of targets that get the same mask, the one that it fits worst is dropped first, until all others pass.
    """
    kept = set(rows)
    own = {t: float(np.mean([r["by_text"][t] for r in rows[t] if "by_text" in r] or [0.0])) for t in rows}
    while True:
        gains = {t: text_gain(rows[t], t, kept) for t in kept}
        failing = [t for t, gain in gains.items() if gain is not None and gain < MIN_TEXT_GAIN]
        if not failing:
            return gains
        kept.remove(min(failing, key=lambda t: own[t]))


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Pick the settings of one pair from its rows."""
    present = [r for r in rows if r["present"]]
    absent = [r["presence"] for r in rows if not r["present"]]
    result: dict[str, Any] = {"n_held_out": len(present), "n_absent_held_out": len(absent)}
    if all("patient" in r for r in present):
        result["n_patients_held_out"] = len({r["patient"] for r in present})
    settings = [k for k in (present[0] if present else {}) if "/" in k]
    if len(present) >= 2:
        means = {k: float(np.mean([r[k] for r in present])) for k in settings}
        shares = shares_that_pay(present, means)
        means = {k: v for k, v in means.items() if share_of(k) in shares}
        best = max(means.values())
        # Among settings as good as the best, the one nearest to the neutral threshold.
        near = [k for k, v in means.items() if v >= best - 0.003]
        key = min(near, key=lambda k: (abs(float(k.split("/")[1]) - 0.5), -float(k.split("/")[0])))
        share, threshold = map(float, key.split("/"))
        result |= {"text_weight": share, "threshold": threshold, "dice_held_out": round(means[key], 4)}
    if len(present) >= MIN_CLASS and len(absent) >= MIN_CLASS:
        result["presence"] = presence_threshold([r["presence"] for r in present])
    return result


def share_of(setting: str) -> float:
    """Share of the text-prompted mask in a setting, ``"0.75/0.5"``: share and threshold."""
    return float(setting.partition("/")[0])


def shares_that_pay(present: Sequence[Mapping[str, Any]], means: Mapping[str, float]) -> set[float]:
    """Shares of the text-prompted mask to choose from: boxes get one only where it surely helps.

    The Dice gained over the text alone, each at its best threshold, must be larger than its standard error over the
    images: otherwise the simpler mask stays (the one-standard-error rule of Breiman et al. 1984).

    Parameters
    ----------
    present : sequence of mapping
        Rows of the images that show the target, at least two.
    means : mapping
        Mean Dice of each setting.
    """
    best = {share: max((k for k in means if share_of(k) == share), key=means.__getitem__)
            for share in {share_of(k) for k in means}}
    pay = {1.0}
    for share in best.keys() - pay:
        gains = np.array([row[best[share]] - row[best[1.0]] for row in present])
        if gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains)):
            pay.add(share)
    return pay


def presence_threshold(scores: Sequence[float]) -> float:
    """Highest threshold that keeps `MIN_SENSITIVITY` of the images with the target, in hundredths.

    Parameters
    ----------
    scores : sequence of float
        Presence of the held-out images that show the target.
    """
    kept = math.ceil(MIN_SENSITIVITY * len(scores) - 1e-9)
    return math.floor(100 * sorted(scores, reverse=True)[kept - 1] + 1e-9) / 100


def chosen_pairs(bundle: Bundle, rows: Mapping[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Settings of each pair that was measured and that the bundle has (others had too few training images)."""
    counts = trained_pairs()
    gains = {m: told_apart({t: r for (n, t), r in rows.items() if n == m}) for m in {m for m, _ in rows}}
    pairs = []
    for (modality, target), found in sorted(rows.items()):
        pair = bundle.manifest.pair(Modality(modality), target)
        if pair is None:
            continue
        chosen = choose(found)
        pairs.append({
            "modality": modality, "target": target, "threshold": chosen.get("threshold", 0.5),
            "presence": chosen.get("presence", 0.0), "text_weight": chosen.get("text_weight", 1.0),
            "box_threshold": pair.box_threshold, "min_area": pair.min_area,
            "n_train": counts.get((Modality(modality), target), 0),
            "told_apart": target in gains[modality], "text_gain_held_out": gains[modality].get(target),
            **{k: v for k, v in chosen.items() if k.startswith(("n_", "dice"))},
        })
    return pairs


def read_rows(files: Sequence[Path]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Read what several measurements wrote, one after the other.

    Raises
    ------
    InputError
        If a file is none of them.
    """
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in files:
        try:
            for name, found in json.loads(file.read_text(encoding="utf-8")).items():
                modality, _, target = name.partition("/")
                rows[modality, target] += found
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{file}: is no .rows.json of training.choose.thresholds ({error}).") from error
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--dataset", action="append", default=[], help=f"only these; {SYNTHETIC!r} for the B-scans")
    parser.add_argument("--limit", type=int, default=1000, help="images of each data set, at most")
    parser.add_argument("--fold", default="", metavar="K/N", help="measure this fold of train, not the held-out part")
    parser.add_argument("--rows", type=Path, action="append", default=[],
                        help=".rows.json of the folds: choose from these and measure nothing")
    parser.add_argument("--no-boxes", action="store_true", help="the detector has learnt from these images")
    parser.add_argument("--pairs", type=Path, help="pairs.json to take all pairs from that are not measured")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    bundle = load_bundle(a.bundle)
    rows = read_rows(a.rows) if a.rows else measure(bundle, held_out_samples(a.dataset, a.limit, a.fold),
                                                       boxes=not a.no_boxes)
    a.out.with_suffix(".rows.json").write_text(json.dumps({f"{m}/{t}": r for (m, t), r in rows.items()}))
    pairs = chosen_pairs(bundle, rows)
    measured = {(p["modality"], p["target"]) for p in pairs}
    others = read_pairs(a.pairs) if a.pairs else pairs_of(bundle)
    pairs += [p for p in others if (p["modality"], p["target"]) not in measured]
    a.out.write_text(json.dumps({"pairs": pairs}, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main))
