"""The pages of the documentation, and their parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook"
"""Records of what was tried: their paths and commands are those of their time."""

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
         *sorted((ROOT / "training").rglob("README.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LIVE_PAGES = [page for page in PAGES if NOTEBOOK not in page.parents]
"""Pages that speak of the present tree."""

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """Return the path from the root, as the id of a test."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """Return the text without blocks of code and without HTML comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.DOTALL)


def code_blocks(text: str, language: str) -> list[str]:
    return [block for kind, block in FENCE.findall(text) if kind == language]


def slugs(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", without_code(text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchors.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return anchors


def links(text: str) -> list[str]:
    """Targets of the links and pictures, without those to other sites."""
    prose = re.sub(r"`[^`\n]*`", "", without_code(text))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs, points of lists, and cells of tables."""
    block: list[str] = []
    for line in [*without_code(text).splitlines(), ""]:
        row = line.lstrip().startswith("|")
        if row or not line.strip() or re.match(r"\s*([-*>#]|\d+\.)\s", line):
            if block:
                yield " ".join(block)
            block = []
        if row:
            yield from (cell.strip() for cell in line.strip().strip("|").split("|"))
        elif line.strip():
            block.append(line.strip())
