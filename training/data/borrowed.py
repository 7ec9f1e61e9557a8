"""Fundus photographs in grey, lent to a modality that has few images of its own.

In infrared light, as in the red channel of a photograph, vessels are pale; in
the green one they are clear. A copy of each mixture, at the scale at which
photographs are looked at, shows a mask head more vessels than the few infrared
images with annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_claps.errors import InputError
from napari_claps.types import Modality
from napari_claps.words.vocabulary import TARGETS
from training.data.records import Record
from training.data.sampler import CachedImage, cache_record
from training.data.selection import training_records

MIXTURES = ((0.8, 0.2), (0.4, 0.6))
"""Shares of red and green in the copies."""


def lent_records(config: Mapping[str, Any]) -> list[tuple[Modality, Record]]:
    """List the images that ``lent`` of a configuration names, a table of modality to data sets, with who gets them.

    A data set that the configuration excludes is not lent either.

    Raises
    ------
    InputError
        If a modality or a data set is unknown (`training_records`).
    """
    lent = config.get("lent", {})
    if unknown := sorted({*lent} - {*Modality}):
        raise InputError(f"[lent] {', '.join(unknown)}: no modality of that name. There are: {', '.join(Modality)}.")
    return [(Modality(modality), record) for modality, datasets in lent.items()
            for record in training_records({"datasets": datasets, "exclude": config.get("exclude", ())})]


def grey_copies(record: Record, modality: Modality) -> list[CachedImage]:
    """Copies of a colour photograph in grey, of the targets that `modality` can show.

    Returns
    -------
    list of CachedImage
        Of each of its scales, one for each of `MIXTURES`; three equal channels.
    """
    known = tuple(t for t in record.targets if modality in TARGETS[t].modalities)
    copies = []
    for item in cache_record(replace(record, targets=known)):
        for red, green in MIXTURES:
            grey = np.rint(red * item.image[..., 0] + green * item.image[..., 1]).astype(np.uint8)
            copies.append(replace(item, modality=modality, image=np.repeat(grey[..., None], 3, axis=2)))
    return copies


def lend(lent: Sequence[tuple[Modality, Record]]) -> list[CachedImage]:
    """All copies of all images."""
    return [copy for modality, record in lent for copy in grey_copies(record, modality)]
