"""``claps demo``: the main job on the samples that come with the installation."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_claps.study.batch import Outcome

PLANE, VOLUME = "fundus_photograph", "synthetic_oct"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``demo`` command."""
    parser = subparsers.add_parser(
        "demo", help="segment a fundus photograph and a synthetic OCT volume",
        description="Write two samples (a real fundus photograph and a synthetic OCT volume), segment everything the "
                    "bundle knows in them, and compare the volume with its truth. Needs no network, display or GPU.",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, default=Path("claps-demo"),
                        help="folder for samples and results (default: %(default)s)")
    parser.add_argument("--device", metavar="auto|cpu|cuda|mps", default="auto", help="default: %(default)s")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the samples, segment them, print what was found."""
    from napari_claps.cli.checks import check_writable
    from napari_claps.cli.progress import Terminal
    from napari_claps.models.bundles.manifest import read_manifest
    from napari_claps.settings import Settings
    from napari_claps.study.jobs import is_complete, plan
    from napari_claps.study.request import Request
    from napari_claps.synthetic.samples import write_sample

    out: Path = arguments.output
    request = Request(settings=Settings(device=arguments.device))
    manifest = read_manifest(request.settings.bundle, request.settings.models_folder)
    check_writable(out)
    terminal = Terminal(quiet=arguments.quiet, debug=arguments.debug)
    [photograph] = write_sample(PLANE, out / "samples")
    volume, truth = write_sample(VOLUME, out / "samples")
    jobs, _ = plan([photograph, volume], out)
    for job in jobs:
        is_complete(job, request, manifest, overwrite=True)  # refuses to replace what is no result
    outcomes = list(terminal.segment(jobs, request))
    for outcome in outcomes:
        if outcome.error is None:
            scores = _dice(outcome, truth) if outcome.source == volume else {}
            terminal.say("\n" + _table(outcome, scores))
    terminal.say(f"\n{manifest.notice}")
    terminal.say("Look at: " + ", ".join(str(o.folder / "overlay.png") for o in outcomes if o.folder))
    terminal.say(f"Open in napari: claps gui {volume}")
    return 1 if any(outcome.error is not None for outcome in outcomes) else 0


def _dice(outcome: Outcome, truth: Path) -> dict[str, float]:
    """Return the Dice of every target that both files have, over the whole volume."""
    import numpy as np

    from napari_claps.results.mask_reader import read_labels

    assert outcome.folder is not None, "a finished file has a folder"
    found, true = read_labels(outcome.folder / "masks.ome.tif"), read_labels(truth)
    scores = {}
    for name in found.names:
        if name in true.names:
            a, b = found.mask(name) > 0, true.mask(name) > 0
            total = np.count_nonzero(a) + np.count_nonzero(b)
            scores[name] = 2 * np.count_nonzero(a & b) / total if total else math.nan
    return scores


def _table(outcome: Outcome, dice: dict[str, float]) -> str:
    """Return one line per target: what was found, how much, and how well where the truth is known."""
    from napari_claps.results.overlay.legend import summary

    assert outcome.findings is not None, "a finished file has findings"
    head = f"{outcome.source.name} ({outcome.seconds:.0f} s)"
    if dice:
        head += "; Dice against the known truth of this synthetic volume, no measure of clinical accuracy"
    lines = [head]
    table = outcome.findings.measurements
    whole = table[table["slice"].isna()]
    for label, rows in whole.groupby("structure", sort=False):
        found = "absent" if (rows["status"] == "absent").all() else summary(rows)
        score = dice.get(str(label), math.nan)
        lines.append(f"  {label:30} {found:30}" + ("" if math.isnan(score) else f"  Dice {score:.2f}"))
    return "\n".join(line.rstrip() for line in lines)
