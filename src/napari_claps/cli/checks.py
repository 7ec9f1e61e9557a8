"""What can be wrong with a command before any work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_claps.errors import BundleError, OutputError, PromptError
from napari_claps.types import Modality
from napari_claps.words.vocabulary import TARGETS, find_target, make_prompt, named_modality, suggest_targets

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import BundleManifest


def check_targets(texts: Sequence[str], modality: str, manifest: BundleManifest) -> None:
    """Refuse targets that no file can have.

    With ``modality`` "auto" a target is fine when the bundle knows it in one of its modalities; whether it exists
    in a file is known when the modality of that file is.

    Raises
    ------
    PromptError, BundleError
    """
    if modality != "auto":
        if not manifest.targets(Modality(modality)):
            raise _knows_nothing(modality, manifest)
        for text in texts:
            make_prompt(text, Modality(modality))
        return
    if not manifest.modalities:
        raise _knows_nothing(modality, manifest)
    for text in texts:
        _check_anywhere(text, manifest)


def check_writable(out: Path) -> None:
    """Refuse an output folder that cannot be made or written to, without making it.

    Raises
    ------
    OutputError
    """
    there = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))  # False for what cannot be looked at
    if not there.is_dir():
        raise OutputError(f"{out}: cannot be the output folder, because {there} is a file. Choose another with -o.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written, {there} does not allow it. Choose another folder with -o.")


def _check_anywhere(text: str, manifest: BundleManifest) -> None:
    """Refuse a text that is a prompt in none of the modalities of the bundle."""
    errors = []
    for modality in manifest.modalities:
        try:
            prompt = make_prompt(text, modality)
        except PromptError as error:
            errors.append(error)
            continue
        if prompt.target is None or manifest.pair(modality, prompt.target) is not None:
            return
    words, named = named_modality(text)
    target = find_target(words)
    if target is not None and (named is None or named in target.modalities):
        known = dict.fromkeys(t for m in manifest.modalities for t in manifest.targets(m))
        raise PromptError(f"{manifest.name} {manifest.version} was not trained for {target.id}. "
                          f"It knows: {', '.join(known)}. Another bundle may: see claps models.")
    if target is None and "Unknown target" in str(errors[0]):
        # The targets of one modality would be too short a list.
        close = suggest_targets(text)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise PromptError(f"Unknown target {text!r}.{hint} Known are: {', '.join(TARGETS)}. "
                          "Free text needs at least two words.") from errors[0]
    # The message for the modality that the text names is the one to the point.
    raise errors[manifest.modalities.index(named) if named in manifest.modalities else 0]


def _knows_nothing(modality: str, manifest: BundleManifest) -> BundleError:
    return BundleError(f"{manifest.name} {manifest.version} knows no target in the modality {modality}, only in "
                       f"{', '.join(manifest.modalities)}. Another bundle may: see claps models.")
