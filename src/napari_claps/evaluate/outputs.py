"""Compare the folders that ``claps segment`` writes with the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_claps.errors import InputError
from napari_claps.evaluate.boxes import SliceBoxes, object_boxes
from napari_claps.evaluate.files import FIELD_OF_VIEW, Labels, find_truth
from napari_claps.evaluate.masks import score_masks
from napari_claps.evaluate.summary import ImageScore
from napari_claps.results.coco import read_detections
from napari_claps.results.mask_reader import read_labels
from napari_claps.words.vocabulary import Kind, kind_of


@dataclass(frozen=True)
class FoundBoxes:
    """What ``boxes.json`` says: the slices that were looked at, and per target and slice its boxes."""

    slices: tuple[int, ...]
    boxes: dict[tuple[str, int], np.ndarray]
    """(n, 5) float64: ``y0, x0, y1, x1`` in pixels, and the score."""


def find_outputs(folder: Path) -> dict[str, Path]:
    """Return the result folders in `folder` (or `folder` itself) by name.

    Raises
    ------
    InputError
        If there is none.
    """
    if (folder / "masks.ome.tif").is_file():
        return {folder.resolve().name: folder}
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the folder that claps segment wrote with -o.")
    found = {
        p.parent.name: p.parent for p in sorted(folder.glob("*/masks.ome.tif")) if not p.parent.name.startswith(".")
    }
    if not found:
        raise InputError(f"{folder}: holds no results (NAME/masks.ome.tif). Give the folder that claps segment wrote.")
    return found


def compare(folder: Path, truth_root: Path, *, name: str, dataset: str = "") -> Iterator[ImageScore]:
    """Score every target of one result folder that is known in the truth.

    Parameters
    ----------
    folder : Path
        Holds ``masks.ome.tif``, and perhaps ``boxes.json`` and ``measurements.csv``.
    truth_root : Path
        See `find_truth`.
    name : str
        Name of the image, by which the truth is found.

    Yields
    ------
    ImageScore
        In the order of the channels. A target that only one side has is left out:
        it was not annotated, or not looked for. Of a volume only the slices that
        were looked at are compared, as one case.

    Raises
    ------
    InputError
        If there is no truth, no common target, or sizes or spacings differ.
    """
    predicted = read_labels(folder / "masks.ome.tif")
    truth = find_truth(truth_root, name)
    if truth is None:
        raise InputError(
            f"{name}: no true masks in {truth_root}. Looked for {name}/masks.ome.tif, {name}.ome.tif "
            f"and masks/<target>/{name}.png."
        )
    spacing = _common_spacing(predicted, truth)
    targets = [n for n in predicted.names if n in truth.names and n != FIELD_OF_VIEW]
    if not targets:
        raise InputError(
            f"{name}: prediction and truth have no target in common. "
            f"Predicted: {', '.join(predicted.names)}. Truth ({truth.source}): {', '.join(truth.names)}."
        )
    found = _read_boxes(folder / "boxes.json")
    presence = _read_presence(folder / "measurements.csv")
    field = truth.mask(FIELD_OF_VIEW) if FIELD_OF_VIEW in truth.names else None
    volume = len(predicted.shape) == 3
    n_slices = predicted.shape[0] if volume else 1
    if found and not (found.slices and found.slices[0] >= 0 and found.slices[-1] < n_slices):
        raise InputError(f"{folder / 'boxes.json'}: names the slices {found.slices}, the masks have {n_slices}.")
    looked_at = list(found.slices) if found and volume else None
    for target in targets:
        mask, true, seen = predicted.mask(target), truth.mask(target), field
        if looked_at:
            mask, true, seen = mask[looked_at], true[looked_at], None if seen is None else seen[looked_at]
        kind = kind_of(target)
        yield ImageScore(
            dataset=dataset,
            image=name,
            target=target,
            masks=score_masks(mask, true, field=seen, spacing=spacing, centreline=kind is Kind.TREE and not volume),
            presence=presence.get(target, math.nan),
            boxes=_match(found, target, true) if found and not kind.is_whole else (),
        )


def _common_spacing(predicted: Labels, truth: Labels) -> tuple[float, ...] | None:
    if predicted.shape != truth.shape:
        sizes = [" x ".join(str(n) for n in reversed(labels.shape)) for labels in (predicted, truth)]
        raise InputError(
            f"{predicted.source}: the masks are {sizes[0]} pixels (x, y, z), the truth {truth.source} is {sizes[1]}. "
            "Compare masks of the same image at its original size."
        )
    if predicted.spacing and truth.spacing and not np.allclose(predicted.spacing, truth.spacing, rtol=1e-3):
        raise InputError(
            f"{predicted.source}: has a spacing of {predicted.spacing} mm, the truth {truth.source} of "
            f"{truth.spacing} mm. Correct the one that is wrong."
        )
    return predicted.spacing or truth.spacing


def _match(found: FoundBoxes, target: str, truth: np.ndarray) -> tuple[SliceBoxes, ...]:
    planes = truth if truth.ndim == 3 else truth[None]
    nothing = np.zeros((0, 5))
    each = (found.boxes.get((target, i), nothing) for i in found.slices)
    return tuple(SliceBoxes(b[:, :4], b[:, 4], object_boxes(plane)) for b, plane in zip(each, planes, strict=True))


def _read_boxes(path: Path) -> FoundBoxes | None:
    if not path.is_file():
        return None
    found = read_detections(path)
    boxes: dict[tuple[str, int], list[Sequence[float]]] = {}
    for box in found.boxes:
        boxes.setdefault((box.label, box.slice_index), []).append((box.y0, box.x0, box.y1, box.x1, box.score))
    arrays = {key: np.array(rows, dtype=float) for key, rows in boxes.items()}
    return FoundBoxes(found.slices, arrays)


def _read_presence(path: Path) -> dict[str, float]:
    """Score that each target is in the image or volume; empty without the table."""
    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path)
        rows = table[(table["measure"] == "presence") & table["slice"].isna()]
        return dict(zip(rows["structure"], rows["value"].astype(float), strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is no table of measurements ({error}).") from error
