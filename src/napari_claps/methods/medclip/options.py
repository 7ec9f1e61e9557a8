"""The settings of the medclip-sam method per modality, read from ``medclip_sam.toml`` beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from napari_claps.methods.medclip.m2ib import Bottleneck
from napari_claps.methods.medclip.points import PointRule, PromptKind
from napari_claps.methods.medclip.regions import Cut, RegionRule
from napari_claps.types import Modality, Prompt
from napari_claps.words.vocabulary import Kind, kind_of

DEFAULTS_FILE = Path(__file__).with_name("medclip_sam.toml")


@dataclass(frozen=True)
class MedClipOptions:
    """Settings of one modality.

    Parameters
    ----------
    bottleneck : Bottleneck
    regions : RegionRule
    points : PointRule
        What of a region SAM is given.
    templates : int
        Wordings of a target over which the saliency is averaged; the time grows with them.
    score : float
        Lowest score of a region, in [0, 1]; below it the target is absent.
    lesion : MedClipOptions or None
        What holds instead for lesions, which are small and many and looked for in tiles; None if nothing else does.
    """

    bottleneck: Bottleneck = field(default_factory=Bottleneck)
    regions: RegionRule = field(default_factory=RegionRule)
    points: PointRule = field(default_factory=PointRule)
    templates: int = 2
    score: float = 0.0
    lesion: MedClipOptions | None = None

    def of(self, prompt: Prompt) -> MedClipOptions:
        """The settings that hold for a prompt."""
        is_lesion = kind_of(prompt.target) is Kind.LESION
        return self.lesion if is_lesion and self.lesion is not None else self


def make_options(values: Mapping[str, Any]) -> MedClipOptions:
    """Options from a table of the file: ``layer``, ``beta``, ``variance``, ``cut``, ``threshold``, ``prompts``, ...

    A table ``lesion`` within holds what is different for lesions.
    """
    values = dict(values)
    if (lesion := values.pop("lesion", None)) is not None:
        values["lesion"] = make_options({**values, **lesion})
    for name, choice in (("cut", Cut), ("prompts", PromptKind)):
        if name in values:
            values[name] = choice(values[name])
    parts: dict[str, Any] = {}
    for name, kind in (("bottleneck", Bottleneck), ("regions", RegionRule), ("points", PointRule)):
        parts[name] = kind(**{k: values.pop(k) for k in list(values) if k in kind.__dataclass_fields__})
    return MedClipOptions(**parts, **values)


@lru_cache(maxsize=1)
def default_options() -> Mapping[Modality, MedClipOptions]:
    """Options of every modality; one without a table of its own has those under ``[default]``."""
    tables = tomllib.loads(DEFAULTS_FILE.read_text(encoding="utf-8"))
    common = tables.get("default", {})
    return MappingProxyType({m: make_options({**common, **tables.get(m, {})}) for m in Modality})
