"""Measure surface networks on scans that they did not learn from.

``python -m training.layers.evaluate LOCATOR:NETWORK... --split train``, each of both the folder of a run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_claps.errors import InputError
from training.layers.boundaries import BOUNDARIES, LAYERS, masks_from_heights
from training.layers.classes import class_surfaces
from training.layers.decode import Decoding, Surfaces
from training.layers.scans import WRONG, LayerScan, read_layers, without_wrong
from training.layers.train import make_network, select
from training.layers.window import find_surfaces
from training.run.checkpoint import load_checkpoint
from training.run.command import run_command

TARGETS = ("retina", *LAYERS)


def load(run: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Network of a run, in evaluation mode, and its configuration."""
    state = load_checkpoint(run / "final.pt")
    net = make_network(state["config"])
    net.load_state_dict(state["model"])
    return net.eval(), state["config"]


def unseen(config: dict[str, Any], split: str) -> list[LayerScan]:
    """Scans of a split that a run did not learn from."""
    scans = read_layers(split)
    if split != "train":
        return scans
    learnt = {s.name for s in select(scans, config)} if config["real"] else set()
    wanted = config.get("test_sources")
    return [s for s in scans if s.name not in learnt and (not wanted or s.source in wanted or "fold" in config)]


def measure(scan: LayerScan, surfaces: Surfaces) -> dict[str, Any]:
    """Dice of all targets and distances of all boundaries in one scan.

    Returns
    -------
    dict
        `dice` (target,) of the masks as they stand, unknown columns counting as missing; `distance` (boundary,) mean
        absolute distance in rows where truth and answer are known; `bias` (boundary,) mean of answer minus truth;
        `answered` (boundary,) part of the annotated columns with an answer; `std` (boundary,) mean.
    """
    rows = scan.image.shape[0]
    truth = without_wrong(scan).heights
    ours, theirs = masks_from_heights(surfaces.heights, rows), masks_from_heights(scan.heights, rows)
    dice = [2 * (ours[t] & theirs[t]).sum() / max(1, ours[t].sum() + theirs[t].sum()) for t in TARGETS]
    for name in WRONG.get(scan.name, ()):  # the layers on both sides are not what is called so in all other scans
        k = BOUNDARIES.index(name)
        dice[k] = dice[k + 1] = np.nan  # the first one is the retina
    known = np.isfinite(truth)
    both = known & np.isfinite(surfaces.heights)
    off = np.where(both, surfaces.heights - np.where(known, truth, 0), 0)
    n = np.maximum(both.sum(1), 1)
    none = both.sum(1) == 0
    return {"name": scan.name, "source": scan.source, "dice": dice,
            "distance": np.where(none, np.nan, np.abs(off).sum(1) / n).tolist(),
            "bias": np.where(none, np.nan, off.sum(1) / n).tolist(),
            "answered": np.where(known.any(1), both.sum(1) / np.maximum(known.sum(1), 1), np.nan).tolist(),
            "std": np.nanmean(surfaces.std, 1).tolist()}


def table(rows: list[dict[str, Any]]) -> str:
    """Means over scans, with the worst of each."""
    dice, far = np.array([r["dice"] for r in rows]), np.array([r["distance"] for r in rows])
    lines = [f"{len(rows)} scans"]
    lines.append("dice     " + " ".join(f"{t[:8]:>8}" for t in TARGETS) + "   layers")
    lines.append("mean     " + " ".join(f"{v:8.3f}" for v in np.nanmean(dice, 0)) + f" {np.nanmean(dice[:, 1:]):8.3f}")
    lines.append("worst    " + " ".join(f"{v:8.3f}" for v in np.nanmin(dice, 0)))
    lines.append("rows     " + " ".join(f"{b[:8]:>8}" for b in BOUNDARIES) + "     mean")
    lines.append("mean     " + " ".join(f"{v:8.2f}" for v in np.nanmean(far, 0)) + f" {np.nanmean(far):8.2f}")
    lines.append("median   " + " ".join(f"{v:8.2f}" for v in np.nanmedian(far, 0)) + f" {np.nanmedian(far):8.2f}")
    lines.append("worst    " + " ".join(f"{v:8.2f}" for v in np.nanmax(far, 0)))
    lines.append("bias     " + " ".join(f"{v:8.2f}" for v in np.nanmean([r["bias"] for r in rows], 0)))
    lines.append("answered " + " ".join(f"{v:8.3f}" for v in np.nanmean([r["answered"] for r in rows], 0)))
    return "\n".join(lines)


def evaluate(pairs: Iterable[tuple[Path, Path]], split: str, how: Decoding, *, mirrored: bool) -> list[dict[str, Any]]:
    """Measure pairs of a locator and a network, each on the scans of the split that neither learnt from.

    Raises
    ------
    InputError
        If there is none.
    """
    out = []
    for first, second in pairs:
        locator, other = load(first)
        net, config = load(second)
        fresh = {s.name for s in unseen(other, split)}
        for scan in unseen(config, split):
            if scan.name not in fresh:
                continue
            if config["classes"] and not config["losses"]["cross"]:
                surfaces, masks = class_surfaces(locator, net, scan.image)
                row = measure(scan, surfaces)
                truth = masks_from_heights(scan.heights, scan.image.shape[0])
                row["largest"] = [2 * (truth[t] & masks[t]).sum() / (truth[t].sum() + masks[t].sum()) for t in TARGETS]
            else:
                row = measure(scan, find_surfaces(locator, net, scan.image, how, mirrored=mirrored))
            out.append({"run": second.name, **row})
    if not out:
        raise InputError(f"No scan of split {split!r} is left that neither network learnt from.")
    return out


def pair_of_runs(text: str) -> tuple[Path, Path]:
    """Folders of a locator and a network."""
    first, colon, second = text.partition(":")
    if not colon:
        raise InputError(f"{text}: name two folders, LOCATOR:NETWORK.")
    return Path(first), Path(second)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="LOCATOR:NETWORK, two folders of runs")
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--mirrored", action="store_true")
    parser.add_argument("--sharpen", type=float, default=1.0)
    parser.add_argument("--reach", type=int, default=Decoding.reach)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--each", action="store_true")
    a = parser.parse_args()
    return run_command(lambda: _report(a))


def _report(a: argparse.Namespace) -> None:
    pairs = [pair_of_runs(text) for text in a.pairs]
    rows = evaluate(pairs, a.split, Decoding(sharpen=a.sharpen, reach=a.reach), mirrored=a.mirrored)
    print(table(rows))
    if any("largest" in r for r in rows):
        print("largest  " + " ".join(f"{v:8.3f}" for v in np.nanmean([r["largest"] for r in rows], 0)))
    if a.each:
        for r in rows:
            print(f"{r['name']:6} {r['source']} retina {r['dice'][0]:.3f} layers {np.nanmean(r['dice'][1:]):.3f} rows",
                  " ".join(f"{v:.1f}" for v in r["distance"]), "answered", round(float(np.nanmean(r["answered"])), 3))
    if a.out:
        a.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
