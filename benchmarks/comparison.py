"""One table from the results of the other benchmarks: same images, same scorer.

``python -m benchmarks.comparison --report REPORT --unet RUN/unet.json ... --boxes RUN/sam_boxes.json --seen REPORT
--left-out drive=REPORT ... --out docs/comparison.md``

`REPORT` is a folder of `training.report.evaluate` on ``val``. For leave-one-source-out, ``--seen`` is the report of a
bundle that was trained with all sources, ``--left-out NAME=REPORT`` that of one trained in the same way without `NAME`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import ClapsError, InputError
from napari_claps.files.atomic import atomic_path

MUCH = 0.02
"""A mean Dice that is lower by more is worse, where more than `FEW` images show the target."""
FEW = 10

Key = tuple[str, str]
Rows = dict[Key, dict[str, Any]]


def read_rows(path: Path) -> Rows:
    """Rows of a summary by data set and target; only those with an image that shows the target.

    Raises
    ------
    InputError
        If the file is none of the benchmarks'.
    """
    file = path / "summary.json" if path.is_dir() else path
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["summary"]
        return {(r["dataset"], r["target"]): r for r in rows if r["n_present"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: holds no summary of scores ({type(error).__name__}: {error}). Give a folder of "
                         "training.report.evaluate, or the JSON file of a benchmark.") from error


def against_unet(ours: Rows, unet: Rows, boxes: Rows, boxes_alone: Rows) -> str:
    """Markdown table of the bundle, the U-Net and perfect boxes, and what the difference comes to."""
    lines = ["| data set | target | images with it | this bundle | U-Net | difference | true boxes and text | "
             "true boxes alone |", "|---|---|---|---|---|---|---|---|"]
    for key in sorted(unet):
        own = ours.get(key)
        difference = "" if own is None else f"{own['dice'] - unet[key]['dice']:+.3f}"
        lines.append(f"| {key[0]} | {key[1]} | {unet[key]['n_present']} | {_dice(own, 'refused')} | "
                     f"{_dice(unet[key])} | {difference} | {_dice(boxes.get(key))} | {_dice(boxes_alone.get(key))} |")
    both = sorted(ours.keys() & unet.keys())
    if not both:
        return "\n".join(lines)
    means = [float(np.mean([rows[k]["dice"] for k in both])) for rows in (ours, unet)]
    worse = [f"{d} {t}" for d, t in both
             if unet[d, t]["n_present"] > FEW and ours[d, t]["dice"] < unet[d, t]["dice"] - MUCH]
    lines.append(f"| mean | of the {len(both)} rows that both answer | | {means[0]:.3f} | {means[1]:.3f} | "
                 f"{means[0] - means[1]:+.3f} | | |")
    verdict = f"Worse than the U-Net by more than {MUCH} where more than {FEW} images show the target: "
    return "\n".join([*lines, "", verdict + (", ".join(worse) if worse else "nowhere") + "."])


def unet_steps(files: Sequence[Path]) -> str:
    """A sentence on how long each U-Net was trained, from their `unet.json`; empty if none of them says so."""
    told = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    steps = [f"{u['modality']} {u['steps']}" for u in told if "steps" in u]
    return f"Steps of the U-Nets, of 8 views each: {', '.join(steps)}." if steps else ""


def left_out_table(seen: Rows, without: Mapping[str, Rows], target: str = "vessel") -> str:
    """Markdown table of what it costs not to have seen a source, and what the others lose."""
    lines = ["| left out | images of it | Dice when it was seen | when not | cost | other sources, mean change |",
             "|---|---|---|---|---|---|"]
    for name, rows in without.items():
        key = (name, target)
        if key not in seen or key not in rows:
            raise InputError(f"{name}: the reports have no {target} of this data set. They need the same images.")
        others = [k for k in seen.keys() & rows.keys() if k[1] == target and k[0] != name]
        change = f"{np.mean([rows[k]['dice'] - seen[k]['dice'] for k in others]):+.3f}" if others else ""
        lines.append(f"| {name} | {seen[key]['n_present']} | {_dice(seen[key])} | {_dice(rows[key])} | "
                     f"{rows[key]['dice'] - seen[key]['dice']:+.3f} | {change} |")
    return "\n".join(lines)


def _dice(row: Mapping[str, Any] | None, missing: str = "") -> str:
    return missing if row is None else f"{row['dice']:.3f}"


def write_comparison(a: argparse.Namespace) -> None:
    """Read all results and write the Markdown file."""
    unet: Rows = {}
    for path in a.unet:
        unet |= read_rows(path)
    boxes = read_rows(a.boxes) if a.boxes else {}
    alone = read_rows(a.boxes.with_stem(a.boxes.stem + "_without_text")) if a.boxes else {}
    parts = [against_unet(read_rows(a.report), unet, boxes, alone), *filter(None, [unet_steps(a.unet)])]
    if a.seen and a.left_out:
        without = {name: read_rows(Path(folder)) for name, _, folder in (w.partition("=") for w in a.left_out)}
        parts.append(left_out_table(read_rows(a.seen), without))
    with atomic_path(a.out) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--unet", type=Path, nargs="+", required=True)
    parser.add_argument("--boxes", type=Path, help="sam_boxes.json, with the other file of that benchmark beside it")
    parser.add_argument("--seen", type=Path)
    parser.add_argument("--left-out", action="append", default=[], metavar="NAME=REPORT")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(arguments)
    try:
        write_comparison(a)
    except ClapsError as error:
        print(f"benchmarks.comparison: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
