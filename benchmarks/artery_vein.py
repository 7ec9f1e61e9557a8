"""What deciding between artery and vein for whole pieces of vessels is worth.

``python -m benchmarks.artery_vein --bundle claps-tiny --held-out`` looks for arteries and veins in the images that have
both annotated, each by itself (pixel by pixel) and together (along the vessels), and prints the mean Dice within the
field of view at the best threshold of each way.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from napari_claps.errors import ClapsError
from napari_claps.inference.scales import working_side
from napari_claps.inference.single_scale import segment_at_scale
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.words.vocabulary import Kind, make_prompt
from training.choose.scoring import Annotated, dice
from training.choose.thresholds import THRESHOLDS
from training.data.records import first_of_each, segmentation_records

BOTH = ("artery", "vein")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--held-out", action="store_true", help="held-out part of train instead of val")
    parser.add_argument("--limit", type=int, help="at most so many images of each data set")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args(arguments)
    try:
        bundle = load_bundle(a.bundle, device=a.device)
        prompter = make_prompter("claps", bundle)
        records = segmentation_records("train" if a.held_out else "val", held_out=True if a.held_out else None)
        scores = defaultdict(list)
        for record in tqdm(first_of_each([r for r in records if set(BOTH) <= set(r.masks)], a.limit), desc="images"):
            pairs = [bundle.manifest.pair(record.modality, t) for t in BOTH]
            if None in pairs:
                continue
            item = Annotated.read(record)
            side = working_side(record.modality, Kind.TREE, item.image.shape[:2])
            queries = [Query(make_prompt(p.target, p.modality), p) for p in pairs]
            for way, asked in (("pixels", [[0], [1]]), ("vessels", [[0, 1]])):
                maps = np.concatenate([
                    segment_at_scale(bundle, prompter, [item.image], side, [queries[i] for i in group])[0].probability
                    for group in asked])
                for target, probability in zip(BOTH, maps, strict=True):
                    scores[record.dataset, target, way].append(
                        [dice(probability >= t, item.truth[target], item.field_of_view) for t in THRESHOLDS])
    except ClapsError as error:
        print(f"benchmarks.artery_vein: {error}", file=sys.stderr)
        return 1
    print("| data set | target | images | pixel by pixel | along vessels |", "|---|---|---|---|---|", sep="\n")
    for dataset, target in dict.fromkeys((d, t) for d, t, _ in scores):
        ways = [np.array(scores[dataset, target, way]) for way in ("pixels", "vessels")]
        cells = [f"{way.mean(0).max():.3f} (at {THRESHOLDS[way.mean(0).argmax()]:g})" for way in ways]
        print(f"| {dataset} | {target} | {len(ways[0])} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
