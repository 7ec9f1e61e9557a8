"""``claps measure``: numbers from masks, for example after they were corrected in another program."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from napari_claps.results.saved_result import SavedResult

COUNTING = {
    "auto": "by number where the result says that its objects were linked, else by overlap",
    "number": "a number is one object in all slices",
    "overlap": "what overlaps from one slice to the next is one object",
}
"""How the objects of a volume are counted."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``measure`` command."""
    parser = subparsers.add_parser(
        "measure", help="measure masks again, for example corrected ones",
        description="Measure masks and write the same table as claps segment. The slices that a result folder says "
                    "were looked at count as such, and those that have a mask; of other files, all.",
    )  # fmt: skip
    parser.add_argument("results", metavar="RESULT", nargs="+", type=Path,
                        help="folder of claps segment, masks file (OME-TIFF, one channel per target, channel name = "
                             "target), or session (.claps.zip)")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE.csv", type=Path, help="file to write (default: print)")
    parser.add_argument("--count", choices=COUNTING, default="auto", metavar="|".join(COUNTING),
                        help="how objects of a volume are counted: " +
                             "; ".join(f"{name}: {text}" for name, text in COUNTING.items()))  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure all results into one table.

    Returns
    -------
    int
        0, or 1 when some results could not be measured.

    Raises
    ------
    ClapsError
        If the only result cannot be measured, or the table not be written.
    """
    import pandas as pd

    from napari_claps.cli.messages import report_error
    from napari_claps.cli.table import write_table
    from napari_claps.errors import ClapsError
    from napari_claps.results.open_result import open_result

    tables, failed = [], 0
    for path in arguments.results:
        try:
            tables.append(_measure(open_result(path), counting=arguments.count))
        except ClapsError as error:
            if len(arguments.results) == 1:
                raise
            report_error(error, debug=arguments.debug)
            failed += 1
    if not tables:
        return 1
    table = pd.concat(tables, ignore_index=True)
    if arguments.output is None:
        # The stream itself turns this into the end of a line of the system.
        table.to_csv(sys.stdout, index=False, float_format="%.6g", lineterminator="\n")
    else:
        write_table(table, arguments.output)
    return 1 if failed else 0


def _measure(result: SavedResult, *, counting: str) -> pd.DataFrame:
    import numpy as np

    from napari_claps.measurement import Measurer
    from napari_claps.types import RetinalImage

    # The measures need the size and the spacing of the image, not its pixels.
    blank = np.broadcast_to(np.uint8(0), result.shape)
    image = RetinalImage(blank, spacing=result.spacing, spacing_source=result.spacing_source,
                         laterality=result.laterality, source=result.image_name,
                         plane_spacing=result.plane_spacing)  # fmt: skip
    measurer = Measurer(image, linked=result.linked if counting == "auto" else counting == "number")
    looked_at = range(result.n_slices) if result.slices is None else set(result.slices)
    planes = [result.planes(name) for name in result.names]
    for index, masks in enumerate(zip(*planes, strict=True)):
        if index in looked_at or any(mask.any() for mask in masks):  # somebody painted there since
            measurer.add(index, dict(zip(result.names, masks, strict=True)))
    return measurer.table()
