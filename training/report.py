"""The files of an evaluation: tables, a page to read, pictures of the worst."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from napari_claps.evaluate import ImageScore, score_table, summarise
from napari_claps.io.atomic import atomic_path
from training.data import Record
from training.trust import BandScore, band_table, draw_reliability, reliability_table

AGREED, MISSED, FALSE = (0, 158, 115), (230, 159, 0), (204, 121, 167)
"""Green, orange and purple of Okabe and Ito, which everybody can tell apart."""
WHITE = (255, 255, 255)
CAPTION = 26
"""Height of the line of text in pixels."""


@dataclass(frozen=True, eq=False)
class Failure:
    """A target of an image, to be drawn when it is among the worst."""

    dice: float
    record: Record
    predicted: np.ndarray
    truth: np.ndarray

    def __lt__(self, other: Failure) -> bool:  # the heap drops the best one first
        return self.dice > other.dice


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
    """Write the tables, ``report.md`` and the pictures of the worst.

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


def draw_failure(failure: Failure, target: str, *, side: int = 800) -> Image.Image:
    """The part of the image that matters, beside the same with agreed, missed and false pixels coloured."""
    with Image.open(failure.record.image) as file:
        plain = file.convert("RGB")
    canvas = np.asarray(plain.convert("L").convert("RGB"), dtype=np.float32).copy()
    p, t = failure.predicted, failure.truth
    for mask, colour in ((p & t, AGREED), (t & ~p, MISSED), (p & ~t, FALSE)):
        canvas[mask] = 0.2 * canvas[mask] + 0.8 * np.array(colour, dtype=np.float32)
    window = _window(p | t)
    parts = [part.crop(window) for part in (plain, Image.fromarray(canvas.astype(np.uint8)))]
    scale = min(3.0, side / max(parts[0].size))
    width, height = (max(1, round(n * scale)) for n in parts[0].size)
    picture = Image.new("RGB", (2 * width + 4, height + CAPTION))
    for x, part in zip((0, width + 4), parts, strict=True):
        picture.paste(part.resize((width, height), Image.Resampling.LANCZOS), (x, CAPTION))
    draw, font, x = ImageDraw.Draw(picture), ImageFont.load_default(size=15), 4
    title = f"{target} in {failure.record.dataset} {failure.record.stem}: Dice {failure.dice:.3f}"
    for text, colour in ((title, WHITE), ("agreed", AGREED), ("missed", MISSED), ("false", FALSE)):
        draw.text((x, 4), text, fill=colour, font=font)
        x += int(draw.textlength(text, font=font)) + 14
    return picture


def _window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around a non-empty mask, at least a third of the image wide, for orientation."""
    window = []
    for axis in (1, 0):
        n = mask.shape[1 - axis]
        inside = np.flatnonzero(mask.any(axis=axis))
        half = max((inside[-1] - inside[0]) * 0.6, n / 6)
        middle = (inside[0] + inside[-1]) / 2
        window.append((int(max(0, middle - half)), int(min(n, middle + half))))
    (y0, y1), (x0, x1) = window
    return x0, y0, x1, y1
