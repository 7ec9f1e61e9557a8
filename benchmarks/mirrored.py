"""What looking at images mirrored too is worth, and what it costs.

``python -m benchmarks.mirrored --bundle claps-tiny`` segments the held-out images of ``train`` once and with all
mirrorings of their modality, and prints the mean Dice at the thresholds of the bundle over the images that show a
target, and the time of all looks as a multiple of one. Thresholds were chosen on the same images: the gain is what
counts. ``export.MIRRORED``, the modalities for which a bundle asks for it, rests on this table and, where hardly an
image is held out, on folds (``--fold 1/2``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from napari_claps.errors import ClapsError
from napari_claps.inference.single_scale import segment_at_scale
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt
from training.choose.scoring import Annotated, dice
from training.data.records import first_of_each, segmentation_records
from training.data.scales import targets_by_side
from training.data.selection import fold_of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--dataset", action="append", default=[], help="restrict to this data set; may be repeated")
    parser.add_argument("--fold", default="", help="this fold of train, such as 1/2, instead of the held-out part")
    parser.add_argument("--limit", type=int, help="at most so many images of each data set")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args(arguments)
    gains: dict[tuple[Modality, str], list[tuple[float, float]]] = defaultdict(list)
    seconds: dict[Modality, np.ndarray] = defaultdict(lambda: np.zeros(2))
    try:
        bundle = load_bundle(a.bundle, device=a.device)
        # Every modality is tried, whatever the bundle asks for.
        bundle = replace(bundle, manifest=replace(bundle.manifest, mirrored=tuple(Modality)))
        prompter = make_prompter("claps", bundle)
        records = segmentation_records("train", held_out=None if a.fold else True, datasets=tuple(a.dataset))
        fold = set(fold_of(records, a.fold)) if a.fold else set()
        records = [r for r in records if not a.fold or r.image in fold]
        for record in tqdm(first_of_each(records, a.limit), desc="images", mininterval=10):
            item = Annotated.read(record)
            modality = record.modality
            known = [t for t in record.targets if bundle.manifest.pair(modality, t)]
            for side, targets in targets_by_side(modality, known, item.image.shape[:2]).items():
                queries = [Query(make_prompt(t, modality), bundle.manifest.pair(modality, t)) for t in targets]
                maps = []
                for look, mirrored in enumerate((False, True)):
                    start = time.perf_counter()
                    (result,) = segment_at_scale(bundle, prompter, [item.image], side, queries, mirrored=mirrored)
                    seconds[modality][look] += time.perf_counter() - start
                    maps.append(result.probability)
                for i, (target, query) in enumerate(zip(targets, queries, strict=True)):
                    if item.truth[target].any():
                        once, mean = (dice(m[i] >= query.pair.threshold, item.truth[target], item.field_of_view)
                                      for m in maps)
                        gains[modality, target].append((once, mean))
    except ClapsError as error:
        print(f"benchmarks.mirrored: {error}", file=sys.stderr)
        return 1
    print("| modality | target | images | one look | mirrored too | gain | time |\n|---|---|---|---|---|---|---|")
    for (modality, target), values in gains.items():
        once, mean = np.mean(values, axis=0)
        ratio = seconds[modality][1] / seconds[modality][0]
        print(f"| {modality} | {target} | {len(values)} | {once:.3f} | {mean:.3f} | {mean - once:+.3f} | {ratio:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
