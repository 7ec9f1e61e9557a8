"""Image-level labels, and the captions made from them.

A *key* is ``(modality, label)``; ``(modality, "")`` is the modality alone. For
each image the keys known to be true and known to be false are listed; all
other keys of its modality are unknown and take no part in the loss.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES, MODALITY_TEMPLATES, TARGETS, TEMPLATES

Key = tuple[str, str]

LABEL_WORDS: dict[str, str] = {
    "dr0": "no diabetic retinopathy",
    "dr1": "mild non-proliferative diabetic retinopathy",
    "dr2": "moderate non-proliferative diabetic retinopathy",
    "dr3": "severe non-proliferative diabetic retinopathy",
    "dr4": "proliferative diabetic retinopathy",
    "dr": "diabetic retinopathy",
    "dme0": "no diabetic macular oedema",
    "dme": "diabetic macular oedema",
    "arterial_phase": "the arterial phase",
    "venous_phase": "the venous phase",
    "brvo": "branch retinal vein occlusion",
    "none_np": "perfused capillaries",
    "with_np": "capillary non-perfusion",
    "normal": "no abnormality",
}

_EXCLUSIVE: tuple[frozenset[str], ...] = (
    frozenset({"dr0", "dr1", "dr2", "dr3", "dr4"}), frozenset({"dr0", "dr"}), frozenset({"dme0", "dme"}),
    frozenset({"arterial_phase", "venous_phase"}), frozenset({"brvo", "normal"}),
    frozenset({"none_np", "with_np"}), frozenset({"normal", "with_np"}),
)


@dataclass(frozen=True)
class Labels:
    """What is known of one image: its modality, and labels that are true and false."""

    modality: Modality
    true: frozenset[str]
    false: frozenset[str]

    def relation(self, key: Key) -> int:
        """Return 1 if the caption of `key` fits the image, 0 if it does not, -1 if unknown."""
        modality, label = key
        if modality != self.modality:
            return 0
        if not label or label in self.true:
            return 1
        return 0 if label in self.false else -1


def parse_labels(modality: str, text: str) -> Labels:
    """Read a ``labels`` cell of ``pretraining.csv`` such as ``dr_grade=3 dme_risk=2``."""
    true: set[str] = set()
    for part in text.split():
        name, _, value = part.partition("=")
        if name == "dr_grade" and value.isdigit():
            true |= {f"dr{value}"} | ({"dr"} if value != "0" else set())
        elif name == "dr":
            true |= {"0": {"dr0"}, "NPDR": {"dr"}, "PDR": {"dr", "dr4"}}.get(value, set())
        elif name in ("dme", "dme_risk") and value.isdigit():
            true.add("dme0" if value == "0" else "dme")
        elif value in LABEL_WORDS:
            true.add(value)
    false = {other for group in _EXCLUSIVE for label in true & group for other in group - {label}} - true
    return Labels(Modality(modality), frozenset(true), frozenset(false))


def caption(key: Key, rng: random.Random) -> str:
    """Draw one wording for a key."""
    modality, label = Modality(key[0]), key[1]
    signature = MODALITIES[modality].signature
    if not label:
        return rng.choice(MODALITY_TEMPLATES).format(signature=signature)
    if label in TARGETS:
        target = TARGETS[label]
        name = rng.choice((target.name, *target.synonyms[:3]))
        description = target.description
    else:
        name = description = LABEL_WORDS[label]
    return rng.choice(TEMPLATES).format(name=name, description=description, signature=signature)
