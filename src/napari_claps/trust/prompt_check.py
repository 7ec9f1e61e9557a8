"""Does the mask depend on the text? The same slice again, with other words.

Models that take text can ignore it: some published ones give the same mask for any words. Such a mask answers no
question, however good it looks. So a slice is run with the true text of a target, with the texts of other targets, with
nonsense, and with the signature of a wrong modality, and the masks are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

import numpy as np

from napari_claps.models.bundles.manifest import BundleManifest
from napari_claps.types import Modality, ModalityGuess, Prompt, RetinalImage, SliceResult
from napari_claps.words.vocabulary import MODALITIES

AGREEMENT = 0.5
"""Dice from which two masks agree too much: half of what is called one thing is also called another."""

NONSENSE = ("a purple bicycle with a flat tyre", "lorem ipsum dolor sit amet", "xqz vrrk plomf")
"""Things that no retinal image shows: plain words, words of another language, and no words at all."""

RELATED = (
    {"vessel", "artery", "vein"}, {"optic_disc", "optic_cup"}, {"retina", "rpe_bm_complex"},
    {"drusen", "pigment_epithelial_detachment"}, {"macular_hole", "lamellar_hole"},
    {"haemorrhage", "microaneurysm"}, {"hard_exudate", "soft_exudate"}, {"brvo_area", "non_perfusion"},
)  # fmt: skip
"""Targets that share pixels, or look so alike that a doctor may call one the other: no warning when they agree."""


class TextKind(StrEnum):
    """What is wrong with a text."""

    TRUE = "true"
    """Nothing: it is the text of the target itself."""
    TARGET = "other target"
    NONSENSE = "nonsense"
    MODALITY = "wrong modality"


@dataclass(frozen=True)
class Trial:
    """One mask of a target for one text.

    Parameters
    ----------
    target : str
        Id, or free text; its thresholds and its working scale are used whatever the text, so that texts are compared
        and not thresholds.
    kind : TextKind
    name : str
        Of the text, short: a target id, the nonsense, or the id of a modality.
    text : str
        As sent.
    pixels : int
        Size of the mask.
    dice : float
        Dice with the mask of the true text; NaN where both are empty.
    """

    target: str
    kind: TextKind
    name: str
    text: str
    pixels: int
    dice: float

    @property
    def column(self) -> tuple[TextKind, str]:
        """Column of the matrix; the text of a target is one column, true for its own row."""
        kind = TextKind.TARGET if self.kind is TextKind.TRUE else self.kind
        return kind, f"in {MODALITIES[Modality(self.name)].name}" if kind is TextKind.MODALITY else self.name

    @property
    def is_suspect(self) -> bool:
        """Whether this text should not have found what it found."""
        alike = any({self.target, self.name} <= group for group in RELATED)
        return self.kind is not TextKind.TRUE and not alike and self.dice >= AGREEMENT


@dataclass(frozen=True)
class PromptCheck:
    """All trials of one slice; `modality` is the right one."""

    source: str
    slice_index: int
    modality: Modality
    trials: tuple[Trial, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets that were tried."""
        return tuple(dict.fromkeys(t.target for t in self.trials))

    @property
    def matrix(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Dice with the mask of the true text: (targets, texts) float, NaN where not tried or both masks are empty.

        The second item names the columns: the texts of all targets, the nonsense, and the wrong modality.
        """
        columns = sorted(dict.fromkeys(t.column for t in self.trials), key=lambda c: list(TextKind).index(c[0]))
        values = np.full((len(self.targets), len(columns)), np.nan)
        for t in self.trials:
            values[self.targets.index(t.target), columns.index(t.column)] = t.dice
        return values, tuple(name for _, name in columns)

    @property
    def nonsense_dice(self) -> dict[str, float]:
        """Mean Dice between the mask of the true text and those of nonsense, per target; NaN if it found nothing."""
        found = {t.target: t.pixels for t in self.trials if t.kind is TextKind.TRUE}
        return {target: float(np.mean([t.dice for t in self.trials
                                       if t.target == target and t.kind is TextKind.NONSENSE]))
                if pixels else float("nan") for target, pixels in found.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about targets whose masks do not depend enough on the text; none is good."""
        said = []
        for target in self.targets:
            suspects = [t for t in self.trials if t.target == target and t.is_suspect]
            wrong = [t for t in suspects if t.kind is TextKind.MODALITY]
            words = [t for t in suspects if t not in wrong]
            start = f"{target}: its mask in slice {self.slice_index} hardly depends on the"
            if words:
                named = ", ".join(t.name if t.kind is TextKind.TARGET else repr(t.name) for t in words)
                said.append(f"{start} text: nearly the same comes out for {named} (Dice up to "
                            f"{max(t.dice for t in words):.2f}). Look at it before you trust its name.")
            for t in wrong:
                there = MODALITIES[Modality(t.name)].signature
                said.append(f"{start} modality: nearly the same comes out for {there} (Dice {t.dice:.2f}). Make sure "
                            "that the modality is right, a wrong one would not show in the mask.")
        return tuple(said)

    @property
    def suspects(self) -> np.ndarray:
        """Cells of the matrix whose text should not have found what it found: (targets, texts) bool."""
        values, columns = self.matrix
        found = np.zeros(values.shape, bool)
        for t in self.trials:
            found[self.targets.index(t.target), columns.index(t.column[1])] |= t.is_suspect
        return found


class LoadedBundle(Protocol):
    """What is asked of a bundle: which targets it knows."""

    @property
    def manifest(self) -> BundleManifest: ...


class Segmenter(Protocol):
    """What is asked of a `napari_claps.inference.pipeline.Pipeline`, which is built above this module."""

    @property
    def bundle(self) -> LoadedBundle: ...
    def with_settings(self, **changes: object) -> Self: ...
    def detect_modality(self, image: RetinalImage) -> ModalityGuess: ...
    def prompts(self, targets: Sequence[str], modality: Modality) -> tuple[Prompt, ...]: ...
    def run(self, image: RetinalImage, targets: Sequence[str | Prompt], *, modality: ModalityGuess | None = None,
            slices: Sequence[int] | None = None,
            region: tuple[int, int, int, int] | None = None) -> Iterator[SliceResult]: ...


def check_prompts(pipeline: Segmenter, image: RetinalImage, targets: Sequence[str], *, slice_index: int = 0,
                  modality: ModalityGuess | None = None,
                  region: tuple[int, int, int, int] | None = None) -> PromptCheck:
    """Run one slice with true and with wrong texts.

    Parameters
    ----------
    pipeline : Segmenter
        A `Pipeline`. Its settings are used, but for uncertainty and coverage, and every text gets one look, not
        mirrored ones.
    image : RetinalImage
    targets : sequence of str
        Ids, synonyms or free texts. With a single one, the other texts are those of the targets that the bundle knows
        in the modality.
    slice_index : int
    modality : ModalityGuess, optional
        If it was decided before.
    region : tuple of int, optional
        (y0, x0, y1, x1) in pixels.

    Raises
    ------
    InputError, PromptError, BundleError
        As in `Pipeline.run`.

    Examples
    --------
    >>> check = check_prompts(pipeline, image, ["drusen"])  # doctest: +SKIP
    >>> check.warnings  # doctest: +SKIP
    ()
    """
    plain = pipeline.with_settings(uncertainty=False, mirrored=False, coverage=None)
    guess = modality or plain.detect_modality(image)
    prompts = plain.prompts(targets, guess.modality)
    others = plain.bundle.manifest.targets(guess.modality) if len(prompts) == 1 else []
    known = plain.prompts(others, guess.modality) if others else prompts
    trials: list[Trial] = []
    for prompt in prompts:
        texts = _texts(prompt, known, guess.modality)
        # The label tells the trials of a target apart; `target` stays, and with it thresholds and scale.
        tried = [Prompt(label=f"{kind}: {name}", text=text, target=prompt.target) for kind, name, text in texts]
        [result] = plain.run(image, tried, modality=guess, slices=[slice_index], region=region)
        masks = [result.masks[p.label] > 0 for p in tried]
        trials += [Trial(prompt.label, kind, name, text, int(np.count_nonzero(mask)), _dice(masks[0], mask))
                   for (kind, name, text), mask in zip(texts, masks, strict=True)]
    return PromptCheck(image.source, slice_index, guess.modality, tuple(trials))


def wrong_modality(modality: Modality) -> Modality:
    """The modality that is least like this one: en face for a B-scan, a B-scan for the others."""
    return Modality.CFP if modality is Modality.OCT else Modality.OCT


def _texts(prompt: Prompt, known: Sequence[Prompt], modality: Modality) -> list[tuple[TextKind, str, str]]:
    """Kind, name and wording of the texts for one target, the true one first."""
    signature, other = MODALITIES[modality].signature, wrong_modality(modality)
    signed = signature in prompt.text  # a bundle may have been trained without signatures
    texts = [(TextKind.TRUE, prompt.label, prompt.text)]
    texts += [(TextKind.TARGET, p.label, p.text) for p in known if p.label != prompt.label]
    texts += [(TextKind.NONSENSE, words, f"{words} in {signature}" if signed else words) for words in NONSENSE]
    if signed:
        texts.append((TextKind.MODALITY, str(other), prompt.text.replace(signature, MODALITIES[other].signature)))
    return texts


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else float("nan")
