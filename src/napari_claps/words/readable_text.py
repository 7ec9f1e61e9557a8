"""Which texts a text encoder can read: its tokens are English, and what it does not know is silently lost."""

from __future__ import annotations

import unicodedata

from napari_claps.errors import PromptError

MAX_TEXT = 200
"""Longest free text in characters."""


def readable_text(text: str, *, examples: str) -> str:
    """Return the text with single spaces and without invisible characters.

    Parameters
    ----------
    text : str
        As typed.
    examples : str
        Targets to name in a message.

    Raises
    ------
    PromptError
        If it is empty, too long, has no letters, or has words in another script than Latin.
    """
    # Full-width letters and ligatures become the usual ones.
    words = unicodedata.normalize("NFKC", text[: 4 * MAX_TEXT])
    words = " ".join("".join(c for c in words if c.isspace() or c.isprintable()).split())
    if not words:
        raise PromptError(f"The target {text[:40]!r} is empty. Give a target id such as {examples}, or a few words.")
    if len(words) > MAX_TEXT:
        raise PromptError(f"The text {words[:40]!r}... has {len(text)} characters; at most {MAX_TEXT} are read. "
                          "Shorten it to the thing to find.")
    if not any(c.isalpha() for c in words):
        raise PromptError(f"The target {words!r} has no letters. Give a target id such as {examples}, or a few words.")
    # A single foreign letter is a symbol, as in "50 µm"; more of them are a word that the encoder has never seen.
    foreign = [word for word in words.split() if sum(_is_foreign(c) for c in word) > 1]
    if foreign:
        raise PromptError(f"The text {words!r} is in a script that the text encoder cannot read ({foreign[0]!r}). "
                          f"Write it in English, or give a target id such as {examples}.")
    return words


def _is_foreign(character: str) -> bool:
    return character.isalpha() and "LATIN" not in unicodedata.name(character, "")
