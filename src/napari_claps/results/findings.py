"""What is found in an image as a whole, beside the masks of its slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from napari_claps.trust.anatomy import Violation
from napari_claps.trust.prompt_check import PromptCheck
from napari_claps.volumes.doubts import Doubt
from napari_claps.volumes.numbering import VolumeLinks


@dataclass(frozen=True, eq=False)
class Findings:
    """What a study ends with, whoever asked for it.

    Parameters
    ----------
    measurements : DataFrame
        See `napari_claps.measurement.measure`.
    violations : tuple of Violation
        What cannot be in an eye, with the numbers of the final masks.
    anatomy_checked : bool
        Whether targets were asked for, or lines were in the file, that let anatomy be checked at all.
    links : VolumeLinks or None
        Numbers of the objects of a linked volume.
    doubts : tuple of Doubt or None
        Places worth a look; None where objects were not linked.
    prompt_check : PromptCheck or None
    provenance : mapping
        Content of ``provenance.json``, in plain JSON types.
    """

    measurements: pd.DataFrame
    violations: tuple[Violation, ...]
    anatomy_checked: bool
    links: VolumeLinks | None
    doubts: tuple[Doubt, ...] | None
    prompt_check: PromptCheck | None
    provenance: Mapping[str, Any]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user was warned of."""
        return tuple(self.provenance["warnings"])
