"""Whether a bundle keeps its word: reliability of the calibrated presence, and coverage of inner and outer masks."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_claps.evaluate import ImageScore
from napari_claps.evaluate.summary import bootstrap_interval
from napari_claps.trust.calibration import calibration_error, log_loss
from napari_claps.types import SliceResult
from training.data.records import Record

COLUMNS = 4
"""Panels in a row of the reliability picture."""


@dataclass(frozen=True)
class BandScore:
    """Inner and outer mask of one target in one image.

    Parameters
    ----------
    modality, target, dataset, image : str
    covered : float
        Share of the true pixels in the outer mask; NaN where the target is absent.
    sure : float
        Share of the inner mask's pixels that are true, 1 where it is empty; NaN where nothing was found.
    inner_recall : float
        Share of the true pixels in the inner mask; NaN where the target is absent.
    outer_area : float
        Area of the outer mask as a multiple of the true one; NaN where the target is absent.
    """

    modality: str
    target: str
    dataset: str
    image: str
    covered: float
    sure: float
    inner_recall: float
    outer_area: float


def score_band(record: Record, target: str, result: SliceResult, truth: np.ndarray, inside: np.ndarray) -> BandScore:
    """Compare inner and outer mask with the truth (y, x); only pixels `inside` count."""
    inner, outer, mask, truth = (plane[inside] for plane in (result.inner[target], result.outer[target],
                                                             result.masks[target] > 0, truth))
    n = np.count_nonzero(truth)
    right = np.count_nonzero(inner & truth)
    return BandScore(
        str(record.modality), target, record.dataset, record.stem,
        covered=np.count_nonzero(outer & truth) / n if n else math.nan,
        sure=(right / max(np.count_nonzero(inner), 1) if inner.any() else 1.0) if mask.any() else math.nan,
        inner_recall=right / n if n else math.nan, outer_area=np.count_nonzero(outer) / n if n else math.nan)


def band_table(bands: Sequence[BandScore], *, seed: int = 0) -> pd.DataFrame:
    """Means over images per modality and target, with bootstrap 95 % intervals of the two that were promised."""
    groups: dict[tuple[str, str], list[BandScore]] = {}
    for band in bands:
        groups.setdefault((band.modality, band.target), []).append(band)
    rows = []
    for (modality, target), members in groups.items():
        group = pd.DataFrame(map(asdict, members))
        row: dict[str, object] = {"modality": modality, "target": target, "n_present": int(group["covered"].count()),
                                  "n_found": int(group["sure"].count())}
        for name in ("covered", "sure"):
            values = group[name].dropna()
            low, high = bootstrap_interval(values, seed=seed)
            row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        row |= {"inner_recall": group["inner_recall"].mean(), "outer_area": group["outer_area"].median()}
        rows.append(row)
    return pd.DataFrame(rows)


def reliability_table(scores: Sequence[ImageScore], images: pd.DataFrame,
                      calibrated: Collection[tuple[str, str]]) -> pd.DataFrame:
    """Reliability of the calibrated presence per modality and target.

    Images of a wrongly detected modality are left out: there the target was
    refused, and no probability was given.

    Returns
    -------
    DataFrame
        ``modality, target, n_present, n_absent``, mean ``probability``, expected calibration error ``ece``,
        ``log_loss``, that of the mere share of present (``prevalence_log_loss``), and ``groups``, the points of the
        curve.
    """
    modality = {(r.dataset, r.image): r.modality for r in images[images["right"]].itertuples()}
    found: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for s in scores:
        key = (modality.get((s.dataset, s.image), ""), s.target)
        if key in calibrated:
            found.setdefault(key, []).append((s.presence, s.masks.present))
    rows = []
    for (name, target), pairs in found.items():
        p, present = (np.array(column) for column in zip(*pairs, strict=True))
        error, groups = calibration_error(p, present)
        share = present.mean()
        rows.append({"modality": name, "target": target, "n_present": int(present.sum()),
                     "n_absent": int((~present).sum()), "probability": p.mean(), "ece": error,
                     "log_loss": log_loss(p, present),
                     "prevalence_log_loss": log_loss(np.full(len(p), share), present), "groups": groups})
    return pd.DataFrame(rows)


def draw_reliability(table: pd.DataFrame, path: Path) -> None:
    """Draw a reliability curve per target: share of present against predicted probability, with Wilson intervals."""
    from matplotlib.figure import Figure

    n = len(table)
    columns = min(COLUMNS, n)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(3 * columns + 0.4, 3.5 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    for ax, row in zip(axes, table.itertuples(), strict=False):
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for group in row.groups:
            low, high = wilson(group["present"], group["n"])
            ax.plot([group["probability"]] * 2, [low, high], color="#0072B2", alpha=0.5, linewidth=1.5)
        ax.plot([g["probability"] for g in row.groups], [g["present"] for g in row.groups], "o-", color="#0072B2",
                markersize=5, linewidth=1)
        for group in row.groups:
            ax.annotate(str(group["n"]), (group["probability"], group["present"]), xytext=(5, -10),
                        textcoords="offset points", fontsize=7, color="0.35")
        ax.set_title(f"{row.target} ({row.modality})\n{row.n_present} present, {row.n_absent} absent, "
                     f"ECE {row.ece:.2f}", fontsize=8)
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    figure.supxlabel("predicted probability that the target is there", fontsize=9)
    figure.supylabel("share of images that show it", fontsize=9)
    figure.savefig(path, dpi=110, format="png")


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson 95 % interval of a share of n images."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half
