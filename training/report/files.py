"""The files of an evaluation: tables, a page to read, pictures of the worst."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from napari_claps.evaluate import ImageScore, score_table, summarise
from napari_claps.files.atomic import atomic_path
from training.report.failures import Failure, draw_failure, draw_failure_maps
from training.report.reliability import BandScore, band_table, draw_reliability, reliability_table


def write_report(
    folder: Path,
    about: dict[str, Any],
    scores: Sequence[ImageScore],
    image_rows: Sequence[dict[str, Any]],
    worst: Mapping[str, Sequence[Failure]],
    *,
    calibrated: Collection[tuple[str, str]] = (),
    bands: Sequence[BandScore] = (),
    seed: int = 0,
) -> None:
    """Write the tables, ``report.md``, the pictures of the worst, and ``failures.png`` of those that may be shown.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    about : dict
        ``bundle``, ``version``, ``part``, ``device``, and what else shall be in ``summary.json``.
    scores : sequence of ImageScore
    image_rows : sequence of dict
        One per image: ``dataset, image, modality, detected, right, seconds``.
    worst : mapping of target to failures
        To be drawn.
    calibrated : collection of (modality, target)
        Pairs whose presence is a probability.
    bands : sequence of BandScore
        Of the inner and outer masks.
    seed : int
        Of the bootstrap.
    """
    images, summary = pd.DataFrame(image_rows), summarise(scores, seed=seed)
    reliability = reliability_table(scores, images, calibrated)
    coverage = band_table(bands, seed=seed)
    tables = {"scores": score_table(scores), "images": images, "summary": summary}
    if len(reliability):
        tables["reliability"] = reliability.drop(columns="groups")
        with atomic_path(folder / "reliability.png") as temporary:
            draw_reliability(reliability, temporary)
    if bands:
        tables["bands"] = pd.DataFrame(map(asdict, bands))
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    facts = {
        **about,
        "n_images": len(images),
        "modality_accuracy": float(images["right"].mean()),
        "modality_mistakes": images[~images["right"]][["dataset", "image", "modality", "detected"]].to_dict("records"),
        "seconds_per_image": {"median": images["seconds"].median(), "mean": images["seconds"].mean()},
    }
    # pandas turns NaN into null, which JSON needs.
    content = facts | {name: json.loads(table.to_json(orient="records", double_precision=6)) for name, table in
                       (("summary", summary), ("reliability", reliability), ("bands", coverage))}
    with atomic_path(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_path(folder / "report.md") as temporary:
        temporary.write_text(report_text(facts, images, summary, reliability, coverage), encoding="utf-8")
    for target, failures in worst.items():
        for rank, failure in enumerate(sorted(failures, reverse=True), start=1):
            with atomic_path(folder / "worst" / f"{target}_{rank}.png") as temporary:
                draw_failure(failure, target).save(temporary)
    if maps := draw_failure_maps(worst):
        with atomic_path(folder / "failures.png") as temporary:
            maps.save(temporary, format="png", optimize=True)


def report_text(facts: dict[str, Any], images: pd.DataFrame, summary: pd.DataFrame, reliability: pd.DataFrame,
                coverage: pd.DataFrame) -> str:
    """The report as markdown."""
    by_set = images.groupby("dataset", sort=False)
    modality = pd.DataFrame({"images": by_set.size(), "modality right": by_set["right"].mean(),
                             "seconds (median)": by_set["seconds"].median()}).reset_index()  # fmt: skip
    pairs = zip(summary["dice_low"], summary["dice_high"], strict=True)
    interval = [f"{low:.3f} to {high:.3f}" if low == low else "" for low, high in pairs]
    names = {"dataset": "data set", "target": "target", "n_present": "present", "n_absent": "absent", "dice": "Dice",
             "interval": "95 % interval", "iou": "IoU", "precision": "precision", "recall": "recall", "hd95": "HD95",
             "length_unit": "unit", "cldice": "clDice", "size_error": "size error", "sensitivity": "sensitivity",
             "false_positive_rate": "false positives", "auroc": "AUROC", "ap50": "AP50"}  # fmt: skip
    table = summary.assign(interval=interval)[list(names)].rename(columns=names)
    lines = [
        f"# {facts['bundle']} {facts['version']} on {facts['part']}",
        "",
        f"{facts['n_images']} images, default settings, only image and target names given. "
        f"Modality right in {facts['modality_accuracy']:.1%}. "
        f"{facts['seconds_per_image']['median']:.2f} s per image (median, {facts['device']}).",
        "",
        "Means over the images where the target is present; a missed target counts with Dice 0 and the diagonal of the "
        "image as distance. False positives: share of the images without the target in which something was found.",
        "",
        markdown_table(table),
        "",
        markdown_table(modality),
        "",
    ]
    if len(reliability):
        lines += ["Presence as a probability (see reliability.png):", "",
                  markdown_table(reliability.drop(columns="groups")), ""]
    if len(coverage):
        lines += [f"Inner and outer masks of coverage {facts['coverage']}:", "", markdown_table(coverage), ""]
    if facts.get("not_in_bundle"):
        missing = ", ".join(f"{name} ({n})" for name, n in sorted(facts["not_in_bundle"].items()))
        lines += [f"Annotated, but the bundle was not made for them (images): {missing}.", ""]
    return "\n".join(lines)


def markdown_table(table: pd.DataFrame) -> str:
    """Three decimals, and nothing where there is no value."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.3f}"
        return str(value)

    head = [list(table.columns), ["---"] * table.shape[1]]
    rows = [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)
