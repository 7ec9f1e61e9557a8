"""Names and colours of labels."""

from __future__ import annotations

import pytest

from napari_claps.words.appearance import label_colour, shown_name
from napari_claps.words.vocabulary import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_targets_look_as_the_vocabulary_says(target):
    assert label_colour(target) == TARGETS[target].colour and shown_name(target) == TARGETS[target].name


def test_free_text_has_a_colour_of_its_own():
    texts = ["bright dots", "dark µ spots", "something else"]
    colours = [label_colour(text) for text in texts]
    assert len(set(colours)) == 3 and colours == [label_colour(text) for text in texts]
    assert all(max(colour) == 255 and all(0 <= c <= 255 for c in colour) for colour in colours)
    assert [shown_name(text) for text in texts] == texts
