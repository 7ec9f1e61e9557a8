"""Memory of linking does not grow with the number of B-scans."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from napari_claps.types import Box, Modality, ModalityGuess, Prompt, SliceResult
from napari_claps.volumes.numbering import link_slices

LABELS = ("intraretinal_fluid", "subretinal_fluid")
SHAPE = (248, 384)


def slices(count, sure=False):
    """A moving pocket per label; each slice is made when it is asked for."""
    guess = ModalityGuess(Modality.OCT, None, "file")
    prompts = tuple(Prompt(label, label, label) for label in LABELS)
    for index in range(count):
        masks = {}
        for number, label in enumerate(LABELS):
            mask = np.zeros(SHAPE, np.uint16)
            y, x = 40 + 90 * number + index % 7, 50 + index
            mask[y:y + 60, x:x + 100] = 1
            masks[label] = mask
        more = {}
        if sure:
            more = {"inner": {label: mask > 0 for label, mask in masks.items()},
                    "outer": {label: mask > 0 for label, mask in masks.items()},
                    "uncertainty": {label: np.full(SHAPE, 0.25 + index, np.float32) for label in LABELS}}
        yield SliceResult(index, guess, prompts, masks, (), dict.fromkeys(LABELS, 0.9), {}, **more)


def peak(count, sure=False):
    """Highest memory in bytes while a volume is linked and read again, and its number of objects."""
    tracemalloc.start()
    with link_slices(slices(count, sure), (0.12, 0.004, 0.011)) as linked:
        seen = sum(1 for result in linked if all(mask.any() for mask in result.masks.values()))
        objects = linked.links.n_objects
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == count
    return highest, objects


@pytest.mark.parametrize("sure", [False, True])
def test_memory_does_not_grow_with_the_slices(sure):
    peak(2)  # what is imported and cached at the first use
    few, one_each = peak(8, sure)
    many, still_one_each = peak(128, sure)
    assert one_each == still_one_each == dict.fromkeys(LABELS, 1)
    plane = np.prod(SHAPE) * (8 if sure else 2)  # bytes of masks, and of entropy, inner and outer masks
    # A slice leaves its compressed planes and a row per object: far less than the planes were.
    assert many - few < 120 * 0.05 * plane, f"{few / 2**20:.2f} MiB for 8 slices, {many / 2**20:.2f} MiB for 128"


def test_all_planes_come_back_as_they_went():
    with link_slices(slices(3, sure=True), (0.12, 0.004, 0.011)) as linked:
        for index, (result, before) in enumerate(zip(linked, slices(3, sure=True), strict=True)):
            for label in LABELS:
                np.testing.assert_array_equal(result.masks[label] > 0, before.masks[label] > 0)
                np.testing.assert_array_equal(result.inner[label], before.inner[label])
                np.testing.assert_array_equal(result.outer[label], before.outer[label])
                np.testing.assert_array_equal(result.uncertainty[label], np.float32(0.25 + index))
                assert result.uncertainty[label].dtype == np.float32
                assert result.inner[label].dtype == bool


def test_a_removed_flicker_is_not_sure_and_not_excluded():
    def flicker(index):
        mask = np.zeros(SHAPE, np.uint16)
        boxes = ()
        if index == 1:
            mask[50:54, 60:64] = 1
            boxes = (Box(50, 60, 54, 64, LABELS[0], 0.2, index, 1),)
        planes = {LABELS[0]: mask > 0}
        return SliceResult(index, ModalityGuess(Modality.OCT, None, "file"), (Prompt(LABELS[0], "", LABELS[0]),),
                           {LABELS[0]: mask}, boxes, {LABELS[0]: 0.0}, {}, inner=planes, outer=planes)

    with link_slices(map(flicker, range(3)), (0.12, 0.004, 0.011)) as linked:
        middle = list(linked)[1]
    assert not middle.masks[LABELS[0]].any()
    assert not middle.inner[LABELS[0]].any()
    assert middle.outer[LABELS[0]].any()
