"""The texts that belong to a prompt: its own wordings, and those of what it could be mistaken for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_claps.types import Modality, Prompt
from napari_claps.words import vocabulary
from napari_claps.words.vocabulary import TARGETS, TEMPLATES, class_text, targets_of


def wordings(prompt: Prompt, modality: Modality, count: int = len(TEMPLATES)) -> tuple[str, ...]:
    """Up to `count` wordings of a target, as different as the vocabulary has them; free text has one.

    The bare name is what a detector gets that was trained without modality signatures; CLIP gets the usual wordings.
    """
    if prompt.target is not None and prompt.text == TARGETS[prompt.target].name:
        prompt = replace(prompt, text=class_text(TARGETS[prompt.target], modality))
    known = vocabulary.wordings(prompt, modality)
    chosen = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))
    return tuple(known[i] for i in chosen)


def other_targets(prompt: Prompt, modality: Modality) -> tuple[str, ...]:
    """Class texts of everything else that the vocabulary has in this modality."""
    return tuple(class_text(t, modality) for t in targets_of(modality) if t.id != prompt.target)
