"""``claps measure``: numbers from masks, for example after they were corrected in another program."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``measure`` command."""
    parser = subparsers.add_parser(
        "measure", help="measure masks again, for example corrected ones",
        description="Measure the masks of OME-TIFF files (one channel per target, channel name = target), as "
                    "claps segment writes them, and write the same table. All slices count as looked at.",
    )  # fmt: skip
    parser.add_argument("masks", metavar="MASKS.ome.tif", nargs="+", type=Path, help="file, or folder of claps segment")
    parser.add_argument("-o", "--output", metavar="FILE.csv", type=Path, help="file to write (default: print)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure all files into one table."""
    import pandas as pd

    from napari_claps.io.atomic import atomic_path

    table = pd.concat([_measure(path) for path in arguments.masks], ignore_index=True)
    if arguments.output is None:
        table.to_csv(sys.stdout, index=False, float_format="%.6g")
        return 0
    with atomic_path(arguments.output) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    print(f"Written: {arguments.output}")
    return 0


def _measure(path: Path) -> pd.DataFrame:
    import numpy as np

    from napari_claps.evaluate.files import read_labels
    from napari_claps.measure import Measurer
    from napari_claps.types import RetinalImage, SpacingSource

    path = path / "masks.ome.tif" if path.is_dir() else path
    labels = read_labels(path)
    # In a result folder the name of the image is that of the folder.
    name = path.resolve().parent.name if path.name == "masks.ome.tif" else path.name
    source = SpacingSource.NONE if labels.spacing is None else SpacingSource.FILE
    # The measures need the size and the spacing of the image, not its pixels.
    blank = np.broadcast_to(np.uint8(0), labels.shape)
    image = RetinalImage(blank, spacing=labels.spacing, spacing_source=source, source=name)
    measurer = Measurer(image)
    masks = {name: labels.mask(name).reshape(image.n_slices, *image.plane_shape) for name in labels.names}
    for index in range(image.n_slices):
        measurer.add(index, {name: mask[index] for name, mask in masks.items()})
    return measurer.table()
