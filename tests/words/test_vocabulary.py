"""Ids, synonyms, texts, and the errors of a wrong one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_claps.errors import PromptError
from napari_claps.types import Modality
from napari_claps.words.vocabulary import (
    COUNTERPARTS,
    MODALITIES,
    TARGETS,
    TEMPLATES,
    Kind,
    class_text,
    find_target,
    kind_of,
    make_prompt,
    named_modality,
    parse_modality,
    targets_of,
    wordings,
)

_CFP = Modality.CFP


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
    ("vesel", "Did you mean vessel"), ("xyzzy", "Unknown target 'xyzzy'"), ("", "empty"), ("!? -", "no letters"),
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


@pytest.mark.parametrize(("text", "target", "modality"), [
    ("drusen in an OCT B-scan", "drusen", Modality.OCT), ("the optic disc on a fundus photograph", "optic_disc", _CFP),
    ("vessels in the OCT angiogram", "vessel", Modality.OCTA), ("IRF in OCT", "intraretinal_fluid", Modality.OCT),
    ("FAZ in an en-face OCT angiogram.", "foveal_avascular_zone", Modality.OCTA),
])  # fmt: skip
def test_a_target_may_be_typed_with_its_modality(text: str, target: str, modality: Modality) -> None:
    assert make_prompt(text, modality) == make_prompt(target, modality)


@pytest.mark.parametrize("modality", list(Modality))
def test_every_class_text_is_read_back(modality: Modality) -> None:
    for target in targets_of(modality):
        text = class_text(target, modality)
        assert named_modality(text) == (target.name, modality)
        assert make_prompt(text, modality).target == target.id


@pytest.mark.parametrize(("text", "modality", "says"), [
    ("optic cup in an OCT B-scan", Modality.OCT, ["optic_cup does not exist in an OCT B-scan", "seen in: colour fundus",
                                                  "drusen", "choose it yourself"]),
    ("optic cup", Modality.FAF, ["optic_cup does not exist", "Did you mean optic_disc?"]),
    ("IRF", _CFP, ["Did you mean hard_exudate?"]),
    ("optic disc in a fundus photograph", Modality.FAF, ["is about a colour fundus photograph", "choose cfp"]),
    ("bright dots in an OCT B-scan", _CFP, ["is about an OCT B-scan", "choose oct"]),
])  # fmt: skip
def test_the_wrong_modality_is_refused_with_what_could_be_meant(text: str, modality: Modality, says: list[str]) -> None:
    with pytest.raises(PromptError) as caught:
        make_prompt(text, modality)
    for part in says:
        assert part in str(caught.value)


def test_counterparts_are_targets_of_another_modality() -> None:
    for target, others in COUNTERPARTS.items():
        for other in others:
            assert set(TARGETS[other].modalities) - set(TARGETS[target].modalities), (target, other)


@pytest.mark.parametrize(("text", "says"), [
    ("", "is empty"), (" \t\n", "is empty"), ("\u200b\u200b", "is empty"), ("?!...", "no letters"),
    ("123", "no letters"),
    ("黄斑裂孔", "in a script that the text encoder cannot read"), ("сетчатка глаза", "cannot read ('сетчатка')"),
    ("drusen أو سائل", "cannot read"), ("x" * 5000, "has 5000 characters; at most 200"), ("dots " * 999, "characters"),
    ("!" * 5000, "characters"),
])  # fmt: skip
def test_unreadable_texts_say_why(text: str, says: str) -> None:
    with pytest.raises(PromptError) as caught:
        make_prompt(text, _CFP)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("text", "label"), [("ｄｒｕｓｅｎ", "drusen"), ("optic\x00 disc", "optic_disc"),
                                             ("spots of 50 µm", "spots of 50 μm"), ("taches à côté", "taches à côté")])
def test_odd_but_readable_texts(text: str, label: str) -> None:
    assert make_prompt(text, _CFP).label == label


@given(st.text(max_size=300), st.sampled_from(list(Modality)))
def test_any_text_is_a_prompt_or_a_message(text: str, modality: Modality) -> None:
    try:
        prompt = make_prompt(text, modality)
    except PromptError as error:
        assert len(str(error)) < 1000
    else:
        assert prompt.text and prompt.label


def test_wordings_are_those_of_the_vocabulary_or_somebodys_own() -> None:
    prompt = make_prompt("drusen", Modality.OCT)
    assert len(wordings(prompt, Modality.OCT)) == len(TEMPLATES)
    assert wordings(replace(prompt, text="a purple bicycle"), Modality.OCT) == ("a purple bicycle",)
    free = make_prompt("pale round spots", Modality.OCT)
    assert wordings(free, Modality.OCT) == (free.text,)


def test_free_text_is_taken_for_an_object() -> None:
    assert [kind_of(t) for t in ("vessel", "drusen", None, "a pale spot")] == [
        Kind.TREE, TARGETS["drusen"].kind, Kind.OBJECT, Kind.OBJECT]
