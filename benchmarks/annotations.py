"""What the annotated images are like, part by part: are those of ``val`` other ones than those to learn from?

``python -m benchmarks.annotations --dataset ravir --out annotations.md`` prints, for each data set, target and part, of
the images that show the target, within the field of view:

* the share of the pixels that are marked: lowest, mean and highest;
* how much darker the marked pixels are than their surroundings, in spreads of the image: the green channel, whose
  standard deviation is 1 (negative: brighter);
* of objects of which an eye has one: the mean Dice of a marked object with its own ellipse, what
  `napari_claps.inference.objects.keep_single` makes of it.

No network is asked.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from benchmarks.limits import PARTS, records_by_part
from napari_claps.errors import ClapsError
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.objects import keep_single
from napari_claps.words.vocabulary import TARGETS
from training.choose.scoring import Annotated, dice

SURROUNDINGS = 0.01
"""Width of what surrounds a target, as a share of the long side of the image."""

COLUMNS = ("data set", "target", "part", "images", "marked", "darker than its surroundings", "agrees with its ellipse")


def contrast(image: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> float:
    """How much darker `mask` is than what surrounds it, in standard deviations of the image; NaN without either.

    Parameters
    ----------
    image : ndarray
        (y, x, 3).
    mask, inside : ndarray
        (y, x) bool; `inside` is the field of view.
    """
    green = image[..., 1].astype(np.float64)
    reach = max(1, round(SURROUNDINGS * max(mask.shape)))
    near = (ndimage.distance_transform_edt(~mask) <= reach) & ~mask & inside
    marked = mask & inside
    if not near.any() or not marked.any():
        return float("nan")
    return float((green[near].mean() - green[marked].mean()) / max(green[inside].std(), 1e-9))


def ellipse_dice(mask: np.ndarray) -> float:
    """Dice of an object (y, x) with the ellipse that `keep_single` makes of it."""
    return dice(keep_single(mask.astype(np.uint16), mask.astype(np.float32)) > 0, mask, None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", action="append", default=[], help="restrict to this data set; may be repeated")
    parser.add_argument("--limit", type=int, help="at most so many images of each data set and part")
    parser.add_argument("--out", type=Path, help="also write the table there")
    a = parser.parse_args(arguments)
    found: dict[tuple[str, str, str], list[tuple[float, float, float]]] = defaultdict(list)
    try:
        for part, records in records_by_part(a.dataset, a.limit).items():
            for record in tqdm(records, desc=part, mininterval=10):
                item = Annotated.read(record)
                for target in record.masks:
                    mask = item.truth[target]
                    inside = np.ones(mask.shape, bool) if item.field_of_view is None else item.field_of_view
                    if not mask.any():
                        continue
                    found[record.dataset, target, part].append((
                        float(mask[inside].mean()), contrast(item.image, mask, inside),
                        ellipse_dice(mask) if TARGETS[target].single else float("nan")))
    except ClapsError as error:
        print(f"benchmarks.annotations: {error}", file=sys.stderr)
        return 1
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    order = list(PARTS)
    for dataset, target, part in sorted(found, key=lambda key: (*key[:2], order.index(key[2]))):
        marked, darker, round_ = np.array(found[dataset, target, part]).T
        agrees = "" if np.isnan(round_).all() else f"{np.nanmean(round_):.3f}"
        lines.append(f"| {dataset} | {target} | {part} | {len(marked)} | {_spread(100 * marked, 1)} % | "
                     f"{_spread(darker, 2)} | {agrees} |")
    print(table := "\n".join(lines))
    if a.out:
        with atomic_path(a.out) as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")
    return 0


def _spread(values: np.ndarray, digits: int) -> str:
    low, mean, high = np.nanmin(values), np.nanmean(values), np.nanmax(values)
    return f"{low:.{digits}f} / {mean:.{digits}f} / {high:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
