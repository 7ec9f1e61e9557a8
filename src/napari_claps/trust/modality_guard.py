"""A word of warning when the modality that was chosen is not the one that the image looks like."""

from __future__ import annotations

from napari_claps.types import Modality, ModalityGuess
from napari_claps.words.vocabulary import MODALITIES

SURE = 0.8
"""Probability from which a detection is worth a warning; below it the two modalities look alike."""


def modality_warning(chosen: Modality, detected: ModalityGuess) -> str | None:
    """Compare the modality that somebody chose with the one that was detected, or that the file states.

    Parameters
    ----------
    chosen : Modality
    detected : ModalityGuess
        From `Pipeline.detect_modality` with the modality "auto".

    Returns
    -------
    str or None
        A sentence for the user, to be shown before the run; None when they agree, or the detection is not sure.
    """
    if detected.modality == chosen:
        return None
    if detected.decided_by == "file":
        looks = f"the file says {MODALITIES[detected.modality].name} ({detected.modality})"
    elif detected.probability is not None and detected.probability >= SURE:
        looks = (f"it looks like {MODALITIES[detected.modality].signature} ({detected.modality}, probability "
                 f"{detected.probability:.2f})")
    else:
        return None
    return (f"the modality {chosen} ({MODALITIES[chosen].name}) was chosen, but {looks}. In the wrong modality a text "
            "means something else and the masks are not to be trusted.")
