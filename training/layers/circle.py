"""Distances to the device's own lines (ILM, RNFL, Bruch's membrane) in circle scans: a check and no truth.

``python -m training.layers.circle LOCATOR:NETWORK...``, each of both the folder of a run.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from torch import nn

from training.data.records import Record, read_truth, segmentation_records
from training.layers.boundaries import BOUNDARIES, masks_from_heights
from training.layers.evaluate import load, pair_of_runs
from training.layers.scans import read_grey
from training.layers.window import find_surfaces
from training.run.command import run_command

DATASET = "spectralis_circle"

UM = 3.87
"""Depth of a pixel of Spectralis, as published; not read from the scan."""


def check(locator: nn.Module, net: nn.Module, record: Record) -> str:
    """One line about a circle scan: Dice, and how far from the device's lines the boundaries are."""
    image = read_grey(record.image)
    retina, rnfl = (read_truth(record, name, image.shape) for name in ("retina", "rnfl"))
    surfaces = find_surfaces(locator, net, image)
    truth = {"ilm": _top(retina), "rnfl_gcl": _end(rnfl), "bm": _end(retina)}
    ours = masks_from_heights(surfaces.heights, image.shape[0])
    words = [record.stem]
    for name, mask in (("retina", retina), ("rnfl", rnfl)):
        words.append(f"dice {name} {2 * (ours[name] & mask).sum() / (ours[name].sum() + mask.sum()):.3f}")
    for name, line in truth.items():
        off = surfaces.heights[BOUNDARIES.index(name)] - line
        far = np.nanmean(np.abs(off))
        words.append(f"{name} {far:.2f} px ({UM * far:.1f} um), bias {np.nanmean(off):+.2f}, answered "
                     f"{np.isfinite(off).sum() / np.isfinite(line).sum():.3f}")
    return "; ".join(words)


def _top(mask: np.ndarray) -> np.ndarray:
    return np.where(mask.any(0), mask.argmax(0) - 0.5, np.nan)


def _end(mask: np.ndarray) -> np.ndarray:
    return np.where(mask.any(0), mask.shape[0] - mask[::-1].argmax(0) - 0.5, np.nan)


def _report(pairs: list[str]) -> None:
    for pair in pairs:
        folders = pair_of_runs(pair)
        locator, net = (load(folder)[0] for folder in folders)
        for record in segmentation_records("val", datasets=(DATASET,)):
            print(f"{folders[1].name}: {check(locator, net, record)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="LOCATOR:NETWORK, two folders of runs")
    a = parser.parse_args()
    return run_command(lambda: _report(a.pairs))


if __name__ == "__main__":
    sys.exit(main())
