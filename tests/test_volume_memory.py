"""Memory of linking does not grow with the number of B-scans."""

from __future__ import annotations

import tracemalloc

import numpy as np

from napari_claps.types import Modality, ModalityGuess, Prompt, SliceResult
from napari_claps.volume import link_slices

LABELS = ("intraretinal_fluid", "subretinal_fluid")
SHAPE = (248, 384)


def slices(count):
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
        yield SliceResult(index, guess, prompts, masks, (), dict.fromkeys(LABELS, 0.9), {})


def peak(count):
    """Highest memory in bytes while a volume is linked and read again, and its number of objects."""
    tracemalloc.start()
    with link_slices(slices(count), (0.12, 0.004, 0.011)) as linked:
        seen = sum(1 for result in linked if all(mask.any() for mask in result.masks.values()))
        objects = linked.links.n_objects
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == count
    return highest, objects


def test_memory_does_not_grow_with_the_slices():
    peak(2)  # what is imported and cached at the first use
    few, one_each = peak(8)
    many, still_one_each = peak(128)
    assert one_each == still_one_each == dict.fromkeys(LABELS, 1)
    plane = np.prod(SHAPE) * 2
    # A slice leaves its compressed masks and a row per object: far less than the plane it was.
    assert many - few < 120 * 0.05 * plane, f"{few / 2**20:.2f} MiB for 8 slices, {many / 2**20:.2f} MiB for 128"
