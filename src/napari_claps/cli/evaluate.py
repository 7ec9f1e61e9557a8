"""``claps evaluate``: compare results with the truth."""

from __future__ import annotations

import argparse
from pathlib import Path

SHOWN = ("target", "n_present", "n_absent", "dice", "dice_low", "dice_high", "iou", "precision", "recall", "hd95",
         "length_unit", "cldice", "size_error", "sensitivity", "specificity", "auroc", "ap50")  # fmt: skip
"""Columns of the printed table."""

DESCRIPTION = """\
Compare the masks that claps segment wrote with true masks, target by target.

The truth of an image NAME is looked for in this order:
  TRUTH/NAME/masks.ome.tif        a result folder, perhaps corrected by hand
  TRUTH/NAME_truth.ome.tif        as claps sample writes it
  TRUTH/NAME.ome.tif              OME-TIFF, one channel per target, channel name = target
  TRUTH/masks/<target>/NAME.png   one picture per target, 0 = background
A channel or folder named fov is the field of view. A target that is not there was not annotated and does
not count; an empty mask says that it is absent. Means are over the images where the target is present,
with a bootstrap 95 % interval of the Dice; a target that was missed counts with Dice 0.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the ``evaluate`` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare results with true masks",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="folder that claps segment wrote with -o")
    parser.add_argument("truth", metavar="TRUTH", type=Path, help="folder of true masks, or one OME-TIFF")
    parser.add_argument(
        "-o", "--output", metavar="REPORT.csv", type=Path,
        help="write one row per image and target here, and the printed table to REPORT_summary.csv",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Compare, print and write.

    Returns
    -------
    int
        0 when everything was compared, 1 when some images could not be.

    Raises
    ------
    ClapsError
        If there are no results or no truth at all, or the report cannot be written.
    """
    from napari_claps.cli.messages import report
    from napari_claps.cli.table import write_table
    from napari_claps.errors import ClapsError, InputError
    from napari_claps.evaluate.outputs import compare, find_outputs
    from napari_claps.evaluate.summary import ImageScore, score_table, summarise

    outputs = find_outputs(arguments.predictions)
    if not arguments.truth.exists():
        raise InputError(f"{arguments.truth}: there is no such file or folder of true masks.")
    if arguments.truth.is_file() and len(outputs) > 1:
        raise InputError(
            f"{arguments.truth} is the truth of one image, but {arguments.predictions} holds the results of "
            f"{len(outputs)}. Give a folder of true masks, or one result folder."
        )
    scores: list[ImageScore] = []
    failures: list[str] = []
    for name, folder in outputs.items():
        try:
            scores += compare(folder, arguments.truth, name=name)
        except ClapsError as error:
            failures.append(str(error))
    for failure in failures:
        report(f"not compared: {failure}")
    if not scores:
        report("error: nothing could be compared, no report was written")
        return 1
    summary = summarise(scores, seed=arguments.seed).drop(columns="dataset")
    shown = summary[list(SHOWN)].dropna(axis="columns", how="all")
    print(shown.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    n_images = len({s.image for s in scores})
    print(f"{n_images} image{'s' * (n_images != 1)} compared.")
    if arguments.output:
        tables = {
            arguments.output: score_table(scores).drop(columns="dataset"),
            arguments.output.with_name(f"{arguments.output.stem}_summary.csv"): summary,
        }
        for path, table in tables.items():
            write_table(table, path)
    return 1 if failures else 0
