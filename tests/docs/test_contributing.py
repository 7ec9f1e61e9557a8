"""The worked examples of CONTRIBUTING are done as they stand there: files are made, rows are added, the rest is run."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from napari_claps import methods
from napari_claps.io import formats
from napari_claps.words import vocabulary
from tests.docs.pages import ROOT, code_blocks, text_of

PAGE = ROOT / "CONTRIBUTING.md"
EXAMPLES = ("a format", "a target", "a method", "a measurement")

FILE = re.compile(r"# src/(napari_claps/[\w/]+)\.py\n")
ROW = re.compile(r"# src/(napari_claps/[\w/]+)\.py, ([A-Z]+)\n")


def section(title: str) -> str:
    """Text below a heading, up to the next one."""
    return re.split(r"^## ", text_of(PAGE).split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def dotted(path: str) -> str:
    return path.replace("/", ".").removesuffix(".__init__")


def add_format(row: formats.Format) -> None:
    formats.FORMATS = (*formats.FORMATS, row)
    formats.SUFFIXES.update(dict.fromkeys(row.suffixes, row))


def add_target(row: vocabulary.Target) -> None:
    vocabulary.TARGETS[row.id] = row
    vocabulary._BY_WORD.update({vocabulary._normal(word): row for word in (row.id, row.name, *row.synonyms)})


def add_method(row: methods.Method) -> None:
    methods.METHODS[row.name] = row


ADD: dict[str, Callable[..., None]] = {"FORMATS": add_format, "TARGETS": add_target, "METHODS": add_method}
"""Table -> what its module does with a row when it is imported."""


@pytest.fixture(autouse=True)
def tables_as_they_were() -> Iterator[None]:
    """Afterwards nothing of an example is left."""
    formats_before, modules = formats.FORMATS, set(sys.modules)
    tables = [formats.SUFFIXES, vocabulary.TARGETS, vocabulary._BY_WORD, methods.METHODS]
    before = [dict(table) for table in tables]
    yield
    formats.FORMATS = formats_before
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for name in set(sys.modules) - modules:
        if not getattr(sys.modules[name], "__file__", None) and name.startswith("napari_claps."):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            vars(sys.modules[parent]).pop(child, None)


def make_file(path: str, code: str) -> None:
    """Run the code of a module that is not there, as if it were."""
    assert not (ROOT / "src" / f"{path}.py").exists()
    module = ModuleType(dotted(path))
    sys.modules[module.__name__] = module  # what imports it finds it
    exec(compile(code, f"{PAGE.name}: {path}.py", "exec"), vars(module))
    parent, _, child = module.__name__.rpartition(".")
    setattr(importlib.import_module(parent), child, module)


def add_row(path: str, table: str, code: str) -> None:
    """Add what a line says to a table, with the names that its module knows."""
    module = importlib.import_module(dotted(path))
    assert hasattr(module, table)
    (row,) = eval(f"({code.strip()}\n)", vars(module))
    ADD[table](row)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_worked_example_works(example: str, networks: None) -> None:
    blocks = code_blocks(section(f"Worked example: {example}"), "python")
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        if row := ROW.match(block):
            add_row(*row.groups(), block[row.end():])
        elif file := FILE.match(block):
            make_file(file[1], block)
        else:
            exec(compile(block, f"{PAGE.name}: {example}", "exec"), names)


def test_every_worked_example_is_tried() -> None:
    assert tuple(re.findall(r"^## Worked example: (.*)$", text_of(PAGE), re.MULTILINE)) == EXAMPLES


def test_ten_tasks_are_listed() -> None:
    rows = [line for line in section("Where is it?").splitlines() if line.startswith("| ")]
    assert len(rows) - 1 == 10  # without the heading


def test_the_map_has_every_room_and_its_modules() -> None:
    package = ROOT / "src" / "napari_claps"
    rows = [line.strip("|").split("|") for line in section("The rooms").splitlines() if line.startswith("| ")][1:]
    named = {name.strip().strip("`"): modules for name, _, modules in rows}
    assert set(named) - {"(root)"} == {folder.name for folder in package.iterdir()
                                      if folder.is_dir() and not folder.name.startswith("_")}
    missing = [f"{room}/{module}" for room, modules in named.items() for module in re.findall(r"`([^`]+)`", modules)
               if not (package / room.replace("(root)", "") / module).exists()]
    assert missing == []
