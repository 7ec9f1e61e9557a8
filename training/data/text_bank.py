"""The texts that the mask head is asked with in training, embedded once."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from napari_claps.models.networks.clip import RetinalClip
from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES, TARGETS, TEMPLATES, class_text
from training.data.sampler import ABSURD, ViewBatch

NONSENSE = (
    "a red bicycle", "the letters of a newspaper", "purple trombone seventeen", "a slice of bread",
    "quarterly tax report", "asdf qwer zxcv", "a dog on a beach", "an aeroplane wing", "seven green umbrellas",
    "the keys of a piano",
    "lorem ipsum dolor", "a kidney stone", "a broken rib", "rain on a window", "a city map", "a spoon and a fork",
)
"""Things that no retinal image shows: the mask of such a text is empty."""


class TextBank:
    """Embeddings of every wording of every class text, and of nonsense, from the frozen text encoder."""

    def __init__(self, clip: RetinalClip) -> None:
        self._texts: dict[tuple[Modality, str], Tensor] = {}
        self._nonsense: dict[Modality, Tensor] = {}
        with torch.no_grad():
            for target in TARGETS.values():
                for modality in target.modalities:
                    texts = [class_text(target, modality, t) for t in TEMPLATES]
                    self._texts[modality, target.id] = clip.encode_text(texts)
            for modality, entry in MODALITIES.items():
                self._nonsense[modality] = clip.encode_text([f"{words} in {entry.signature}" for words in NONSENSE])

    def all(self) -> Tensor:
        """Every wording of every target (N, D)."""
        return torch.cat(list(self._texts.values()))

    def draw(self, batch: ViewBatch, rng: random.Random) -> Tensor:
        """One wording (P, D) per prompt; the first, used at inference, as often as all others together."""
        rows = []
        for view, target in batch.prompts:
            if target == ABSURD:
                rows.append(rng.choice(self._nonsense[batch.modalities[view]]))
                continue
            bank = self._texts[batch.modalities[view], target]
            rows.append(bank[0 if rng.random() < 0.5 else rng.randrange(len(bank))])
        return torch.stack(rows)
