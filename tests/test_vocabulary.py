"""Ids, synonyms, texts, and the errors of a wrong one."""

from __future__ import annotations

import pytest

from napari_claps.errors import PromptError
from napari_claps.types import Modality
from napari_claps.vocabulary import (
    MODALITIES,
    TARGETS,
    TEMPLATES,
    class_text,
    find_target,
    make_prompt,
    parse_modality,
    targets_of,
)


def test_every_modality_has_terms_and_targets() -> None:
    assert set(MODALITIES) == set(Modality)
    assert all(targets_of(m) for m in Modality)


def test_words_are_unambiguous() -> None:
    words: dict[str, str] = {}
    for target in TARGETS.values():
        for word in (target.id, target.name, *target.synonyms):
            assert words.setdefault(word.lower(), target.id) == target.id, word


@pytest.mark.parametrize(("text", "target"), [("IRF", "intraretinal_fluid"), ("optic disk", "optic_disc"),
                                              ("Hemorrhages", "haemorrhage"), ("CWS", "soft_exudate"),
                                              ("  optic_disc ", "optic_disc"), ("MA", "microaneurysm")])
def test_synonyms(text: str, target: str) -> None:
    found = find_target(text)
    assert found is not None and found.id == target


def test_every_text_carries_the_signature_of_its_modality() -> None:
    for target in TARGETS.values():
        for modality in target.modalities:
            for template in TEMPLATES:
                assert MODALITIES[modality].signature in class_text(target, modality, template)


def test_same_word_differs_between_modalities() -> None:
    assert make_prompt("drusen", Modality.OCT).text != make_prompt("drusen", Modality.CFP).text


def test_free_text_gets_the_signature_once() -> None:
    prompt = make_prompt("bright spots near the fovea", Modality.CFP)
    assert prompt.target is None and prompt.label == "bright spots near the fovea"
    assert prompt.text.endswith(MODALITIES[Modality.CFP].signature)
    again = make_prompt(prompt.text, Modality.CFP)
    assert again.text == prompt.text


@pytest.mark.parametrize(("text", "message"), [
    ("vesel", "Did you mean vessel"), ("xyzzy", "Unknown target 'xyzzy'"), ("", "no letters"), ("!? -", "no letters"),
    ("a " * 200, "characters"),
])
def test_wrong_texts_say_what_to_do(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message.replace("?", r"\?")):
        make_prompt(text, Modality.CFP)


def test_target_of_another_modality_is_refused_with_the_reason() -> None:
    with pytest.raises(PromptError, match="optic_cup does not exist in an OCT B-scan; it is seen in: colour fundus"):
        make_prompt("optic cup", Modality.OCT)


def test_unknown_modality_lists_all() -> None:
    assert parse_modality(" OCT ") is Modality.OCT
    with pytest.raises(PromptError, match="Unknown modality 'mri'.*cfp.*oct"):
        parse_modality("mri")
