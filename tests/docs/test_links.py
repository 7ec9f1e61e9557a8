"""What the pages point to is there, and no paragraph is too long to read."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.docs.pages import LIVE_PAGES, PAGES, ROOT, links, name_of, paragraphs, slugs, text_of

LONGEST = 110
"""Words of a paragraph: about five lines."""

PATH = re.compile(r"(?<![\w/.-])(?:src|training|tests|benchmarks|docs)/[\w./*-]*[\w*]")
DOTTED = re.compile(r"(?<![\w./])napari_claps(?:\.[A-Za-z_]\w*)+")
SCRIPT = re.compile(r"(?<![\w./])(?:training|benchmarks|tests)(?:\.(?!(?:md|py|toml)\b)[A-Za-z_]\w*)+")


def named_in(page: Path) -> str:
    """What a page says of the tree; the examples of CONTRIBUTING, which make files, are run by another test."""
    text = text_of(page)
    return re.sub(r"^```python\n.*?^```$", "", text, flags=re.M | re.S) if page.name == "CONTRIBUTING.md" else text


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or what a module holds."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def is_script(dotted: str) -> bool:
    """Whether a dotted name is a module beside the package, or a name in one; it is not imported."""
    path = Path(*dotted.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py")]
    return (ROOT / path).is_dir() or any((ROOT / file).is_file() for file in files)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in links(text_of(page)):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and (there.suffix != ".md" or anchor not in slugs(text_of(there)))):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", LIVE_PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    missing = [path for path in PATH.findall(named_in(page)) if not any(ROOT.glob(path.rstrip("/")))]
    assert missing == []


@pytest.mark.parametrize("page", LIVE_PAGES, ids=name_of)
def test_named_modules_exist(page: Path) -> None:
    text = named_in(page)
    missing = [name for name in DOTTED.findall(text) if not resolves(name)]
    missing += [name for name in SCRIPT.findall(text) if not is_script(name)]
    assert missing == []


@pytest.mark.parametrize("page", LIVE_PAGES, ids=name_of)
def test_paragraphs_are_short(page: Path) -> None:
    assert [p for p in paragraphs(text_of(page)) if len(p.split()) > LONGEST] == []


def test_a_wrong_name_is_noticed() -> None:
    assert resolves("napari_claps.io.formats.FORMATS") and not resolves("napari_claps.io.formats.NOTHING")
    assert not resolves("napari_claps.nothing") and not is_script("training.nothing.there")
    assert links("[a](b.md#c) `[d](e.md)` [f](https://example.org)") == ["b.md#c"]
    assert slugs("## `napari.py`: what it *is*\n## Two, three\n## Two, three") == {
        "naparipy-what-it-is", "two-three", "two-three-1"}
    assert list(paragraphs("a\nb\n\n- c\n  d\n- e\n| f | g |\n")) == ["a b", "- c d", "- e", "f", "g"]
