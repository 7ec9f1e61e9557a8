"""What cannot be in an eye: violations of anatomy are listed, never fixed.

A list tells more than a repaired mask: it shows where the models were wrong. So that it is read, it must not cry wolf;
the tolerances were chosen on expert masks of training images, in which almost nothing may be found (see each constant).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_claps.types import RetinalImage, SliceResult

Box = tuple[int, int, int, int]

CUP_MARGIN = 0.03
"""Part of the disc's diameter that a cup may reach over its rim: 1 of the 32 pixels across a small disc as it is seen
by the model. In expert masks (42 of Drishti-GS) no pixel of a cup lies outside."""

CUP_SHARE = 0.02
"""Part of the cup that must lie beyond the margin; less is a ragged edge."""

SECOND_DISC = 0.05
"""Area of a second disc as a part of the first. Expert masks (87 of Drishti-GS and IDRiD) have one disc each; a
smaller second object is a crumb."""

ILM_MARGIN_MM = 0.03
"""How far fluid may reach above the inner limiting membrane: a few times the axial resolution of OCT (5 to 7 um),
because the line itself is not better than that."""

ILM_MARGIN_PX = 8
"""The same where the spacing is not known; B-scans have 2 to 4 um per pixel in depth."""

ILM_SHARE = 0.1
"""Part of an object that must lie above the margin."""

ON_VESSEL = 0.9
"""Part of a lesion that must lie on the vessels. Vessel masks take in true lesions nearby: of 129 expert-marked
microaneurysms of IDRiD 21 % lie to one half on the vessels that a model found, 1.6 % to nine tenths."""

CROSSING = 6.0
"""Longest overlap of artery and vein in vessel widths. In expert masks (387 overlaps in 16 images of DRIVE) a crossing
is 1.4 widths long, 99 % are below 4.0 and the longest is 4.3; six widths are a crossing at less than ten degrees."""

THIN = 3.0
"""Least vessel width in pixels that counts: below, a mask has no width."""

BELOW_ILM = ("intraretinal_fluid", "subretinal_fluid", "pigment_epithelial_detachment", "shrm", "drusen")
ON_TISSUE = ("microaneurysm", "haemorrhage", "hard_exudate", "soft_exudate")

NEEDS = ({"optic_disc"}, {"optic_cup", "optic_disc"}, {"artery", "vein"},
         *({lesion, "vessel"} for lesion in ON_TISSUE))  # fmt: skip
"""Targets that must have been looked for together for something to be checked."""


@dataclass(frozen=True)
class Violation:
    """Something that cannot be.

    Parameters
    ----------
    slice_index : int
    label : str
        Target that is more likely wrong.
    reason : str
        A sentence.
    box : tuple of int
        (y0, x0, y1, x1) in pixels of the slice, end exclusive.
    """

    slice_index: int
    label: str
    reason: str
    box: Box


def can_check(labels: Iterable[str], image: RetinalImage) -> bool:
    """Whether these targets, with the layer lines of the file, allow any check."""
    labels = set(labels)
    surface = "retina" in labels or ilm_line(image, 0) is not None
    return any(need <= labels for need in NEEDS) or (surface and bool(labels & set(BELOW_ILM)))


def find_violations(result: SliceResult, image: RetinalImage) -> tuple[Violation, ...]:
    """Check one slice.

    Parameters
    ----------
    result : SliceResult
    image : RetinalImage
        That it was found in: gives spacing and layer lines.

    Returns
    -------
    tuple of Violation
        Nothing for a target that was not looked for or not found.
    """
    masks = {label: mask for label, mask in result.masks.items() if mask.any()}
    index = result.index
    found = [Violation(index, "optic_disc", reason, box) for reason, box in _second_discs(masks)]
    if "optic_disc" in result.masks:
        found += [Violation(index, "optic_cup", reason, box) for reason, box in _cup_outside_disc(masks)]
    surface, source = _surface(masks, image, index)
    if surface is not None:
        spacing = image.plane_spacing
        margin = ILM_MARGIN_MM / spacing[0] if spacing else ILM_MARGIN_PX
        found += [Violation(index, label, reason, box) for label in BELOW_ILM if label in masks
                  for reason, box in _above(masks[label], surface - margin, source)]
    found += [Violation(index, label, reason, box) for label in ON_TISSUE if label in masks and "vessel" in masks
              for reason, box in _on_vessel(masks[label], masks["vessel"] > 0)]
    found += [Violation(index, "vein", reason, box) for reason, box in _artery_on_vein(masks)]
    return tuple(found)


def ilm_line(image: RetinalImage, index: int) -> np.ndarray | None:
    """Depth (x,) in pixels of the inner limiting membrane as the device found it, NaN where it did not; or None."""
    lines = next((lines for name, lines in image.layers.items() if name.lower() == "ilm"), None)
    return None if lines is None or not np.isfinite(lines[index]).any() else lines[index]


def _surface(masks: Mapping[str, np.ndarray], image: RetinalImage, index: int) -> tuple[np.ndarray | None, str]:
    """Depth (x,) of the inner surface of the retina, and who says so."""
    line = ilm_line(image, index)
    if line is not None:
        return line, "the inner limiting membrane of the device"
    if "retina" not in masks:
        return None, ""
    retina = masks["retina"] > 0
    top = np.where(retina.any(0), retina.argmax(0), np.inf)
    # A notch of a few columns in the mask is no surface: the highest point nearby counts.
    top = ndimage.minimum_filter1d(top, size=15, mode="nearest")
    return np.where(np.isinf(top), np.nan, top), "the upper edge of the retina mask"


def _second_discs(masks: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Box]]:
    if "optic_disc" not in masks:
        return
    objects = sorted(_objects(masks["optic_disc"]), key=lambda o: -np.count_nonzero(o[1]))
    largest = np.count_nonzero(objects[0][1])
    for box, pixels in objects[1:]:
        if np.count_nonzero(pixels) >= SECOND_DISC * largest:
            yield "an eye has one optic disc, this is another", box


def _cup_outside_disc(masks: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Box]]:
    if "optic_cup" not in masks:
        return
    cup = masks["optic_cup"] > 0
    if "optic_disc" not in masks:
        yield "there is a cup but no disc", _box(cup)
        return
    disc = masks["optic_disc"] > 0
    diameter = 2 * np.sqrt(np.count_nonzero(disc) / np.pi)
    outside = cup & (ndimage.distance_transform_edt(~disc) > max(1.0, CUP_MARGIN * diameter))
    share = np.count_nonzero(outside) / np.count_nonzero(cup)
    if share >= CUP_SHARE:
        yield f"{share:.0%} of the cup lies outside the disc", _box(outside)


def _above(mask: np.ndarray, surface: np.ndarray, source: str) -> Iterator[tuple[str, Box]]:
    limit = np.where(np.isnan(surface), -np.inf, surface)
    for box, pixels in _objects(mask):
        rows = np.arange(box[0], box[2])[:, None]
        above = pixels & (rows < limit[box[1]:box[3]])
        share = np.count_nonzero(above) / np.count_nonzero(pixels)
        if share >= ILM_SHARE:
            yield f"{share:.0%} of it lies above {source}, in the vitreous", box


def _on_vessel(mask: np.ndarray, vessel: np.ndarray) -> Iterator[tuple[str, Box]]:
    for box, pixels in _objects(mask):
        share = np.count_nonzero(pixels & vessel[box[0]:box[2], box[1]:box[3]]) / np.count_nonzero(pixels)
        if share >= ON_VESSEL:
            yield f"{share:.0%} of it lies on a vessel, it may be a piece of it", box


def _artery_on_vein(masks: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Box]]:
    if "artery" not in masks or "vein" not in masks:
        return
    artery, vein = masks["artery"] > 0, masks["vein"] > 0
    half_width = ndimage.distance_transform_edt(artery | vein)
    overlaps, _ = ndimage.label(artery & vein, structure=np.ones((3, 3)))
    for box, pixels in _objects(overlaps):
        length = np.hypot(box[2] - box[0], box[3] - box[1])
        width = max(THIN, 2 * half_width[box[0]:box[2], box[1]:box[3]][pixels].max())
        if length > CROSSING * width:
            yield f"artery and vein share {length:.0f} pixels, longer than a crossing ({width:.0f} wide)", box


def _objects(mask: np.ndarray) -> Iterator[tuple[Box, np.ndarray]]:
    """Box and (y, x) bool pixels within it of each instance."""
    for number, place in enumerate(ndimage.find_objects(mask), start=1):
        if place is not None:
            rows, columns = place
            yield (rows.start, columns.start, rows.stop, columns.stop), mask[place] == number


def _box(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
