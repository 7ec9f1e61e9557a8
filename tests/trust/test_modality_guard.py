"""Warnings about a modality that was chosen against what the image looks like."""

from __future__ import annotations

import pytest

from napari_claps.trust.modality_guard import modality_warning
from napari_claps.types import Modality, ModalityGuess


@pytest.mark.parametrize(("detected", "says"), [
    (ModalityGuess(Modality.OCT, 0.97, "detected"), "it looks like an OCT B-scan (oct, probability 0.97)"),
    (ModalityGuess(Modality.OCT, None, "file"), "the file says OCT B-scan (oct)"),
])  # fmt: skip
def test_a_mismatch_is_said(detected, says):
    warning = modality_warning(Modality.CFP, detected)
    assert "the modality cfp (colour fundus photograph) was chosen" in warning
    assert says in warning


@pytest.mark.parametrize("detected", [
    ModalityGuess(Modality.CFP, 0.99, "detected"), ModalityGuess(Modality.CFP, None, "file"),
    ModalityGuess(Modality.UWF, 0.6, "detected"), ModalityGuess(Modality.UWF, None, "user"),
])  # fmt: skip
def test_agreement_and_a_doubtful_detection_are_quiet(detected):
    assert modality_warning(Modality.CFP, detected) is None
