"""One version everywhere, a section of the changelog for each, and limits that the model card repeats."""

from __future__ import annotations

import re
import tomllib

from napari_claps.models.bundles.manifest import read_manifest
from tests.docs.pages import NOTEBOOK, ROOT, text_of, without_code


def package_version() -> str:
    return tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (\S+)$", text_of(ROOT / "CITATION.cff"), re.MULTILINE)
    assert cited is not None and cited[1] == package_version()
    assert f"## {package_version()}" in text_of(ROOT / "CHANGELOG.md")


def test_the_package_is_not_older_than_its_bundle() -> None:
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")[:2]]

    assert numbers(package_version()) >= numbers(read_manifest("claps-tiny").version)


def test_each_version_of_the_bundle_has_a_section_and_a_page() -> None:
    sections = set(re.findall(r"^## (\d+\.\d+\.\d+)", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE))
    pages = {page.stem for page in NOTEBOOK.glob("*.*.*.md")}
    assert read_manifest("claps-tiny").version in pages
    assert pages <= sections


def test_limits_are_ten_points_and_a_table() -> None:
    title, *rest = text_of(ROOT / "docs/limits.md").splitlines()
    assert title.startswith("# ")
    assert len([line for line in rest if line.startswith("- ")]) == 10
    assert "## Do not use it for" in rest and any(line.startswith("| ") for line in rest)


def test_the_card_repeats_the_limits() -> None:
    """The title apart: `docs/limits.md` is a page of its own, and a part of the card."""
    body = text_of(ROOT / "docs/limits.md").split("\n", 1)[1]
    assert " ".join(body.split()) in " ".join(text_of(ROOT / "docs/model-card.md").split())


def test_prose_of_the_limits_has_no_scores() -> None:
    """A score stands in a table."""
    lines = without_code(text_of(ROOT / "docs/limits.md")).splitlines()
    prose = "\n".join(line for line in lines if not line.startswith("|"))
    assert re.findall(r"\d\.\d", prose) == []
