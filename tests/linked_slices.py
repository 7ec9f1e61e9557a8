"""Slices with known masks, scores and presence, as the pipeline gives them, and what linking makes of them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_claps.types import Box, Modality, ModalityGuess, Prompt, SliceResult
from napari_claps.volumes.linking import SliceLinker
from napari_claps.volumes.numbering import link_slices, number_objects

SPACING = (0.12, 0.004, 0.011)
FLUID = "intraretinal_fluid"


def results_of(volumes, *, slices=None, score=0.9, presence=1.0, relabel=True):
    """Slices of (z, y, x) masks by label, numbered in each slice anew, as the pipeline does; one box per object.

    `score` and `presence` are numbers, or functions of the slice.
    """
    guess = ModalityGuess(Modality.OCT, None, "file")
    prompts = tuple(Prompt(label, label, label) for label in volumes)
    depth = len(next(iter(volumes.values())))
    for index in range(depth) if slices is None else slices:
        masks, boxes = {}, []
        for label, volume in volumes.items():
            plane = ndimage.label(volume[index] > 0, np.ones((3, 3)))[0] if relabel else volume[index]
            masks[label] = plane.astype(np.uint16)
            for number, place in enumerate(ndimage.find_objects(plane), start=1):
                if place is not None:
                    y, x = place
                    boxes.append(Box(y.start, x.start, y.stop, x.stop, label, _at(score, index), index, number))
        there = {label: _at(presence, index) for label in masks}
        yield SliceResult(index, guess, prompts, masks, tuple(boxes), there, {"encode": 0.5})


def _at(value, index):
    return value(index) if callable(value) else value


def links_of(results, spacing=SPACING, rule=None):
    linker = SliceLinker(spacing, rule)
    for result in results:
        linker.add(result)
    return number_objects(linker)


def linked_volume(volume, spacing=SPACING, rule=None, **more):
    """The (z, y, x) numbers of a volume after linking."""
    with link_slices(results_of({FLUID: volume}, **more), spacing, rule=rule) as linked:
        out = np.zeros(volume.shape, np.uint16)
        for result in linked:
            out[result.index] = result.masks[FLUID]
    return out


def same_objects(a, b):
    """Whether two arrays of numbers say the same but for the numbers."""
    pairs = np.unique(a.astype(np.int64) << 32 | b)
    return ((a > 0) == (b > 0)).all() and len(np.unique(a)) == len(np.unique(b)) == len(pairs)


def pocket(shape=(8, 40, 60), *, z=(1, 7), centre=(20, 30), radius=6):
    """A cylinder along z."""
    y, x = np.ogrid[:shape[1], :shape[2]]
    volume = np.zeros(shape, np.uint16)
    volume[z[0]:z[1]] = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return volume


def with_flicker(side=6):
    """A pocket in all slices, and away from it a square in slice 4 only."""
    volume = pocket(z=(0, 8))
    volume[4, 8 - side // 2:8 + side // 2, 8 - side // 2:8 + side // 2] = 1
    return volume
