"""The plan of the house: what may stand in the root, which room may know which, and what is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

PACKAGE = "napari_claps"
ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / PACKAGE

IN_THE_ROOT = {"__init__", "errors", "types", "settings", "device"}

FLOORS = (
    ("errors",), ("types", "device"), ("words", "files"), ("io",), ("models",), ("methods",), ("settings",),
    ("trust",), ("inference",), ("volumes", "measurement"), ("session",), ("results",), ("evaluate", "synthetic"),
    ("study",), ("plugin",), ("cli",),
)  # fmt: skip
"""Rooms from the ground up: a module imports from its own room and from lower floors, never from above or beside.

Methods that are loaded by their name in a table (readers of formats, prompters) are not seen here, and need not be: the
table is what keeps them apart.
"""

NEVER_IMPORTED = {
    "imagecodecs": "tifffile and the DICOM readers load it for compressed pixels",
    "timm": "open_clip makes the trunk of the image encoder with it",
    "pylibjpeg": "pydicom finds it by itself", "pylibjpeg-openjpeg": "pylibjpeg's decoder of JPEG 2000",
    "pyjpegls": "pydicom's decoder of JPEG-LS",
}  # fmt: skip
"""Requirements that no module of ours imports, and why they are there."""

EXTRAS = ("formats", "vendor", "export")
"""Extras of the package itself; the others are those of training and tests."""

BROUGHT_BY = {"numcodecs": {"zarr"}}
"""Libraries that are imported and belong to a declared one."""


def modules() -> dict[str, Path]:
    """Dotted name -> file of each module of the package."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(path: Path) -> Iterator[str]:
    """What a file imports, wherever in it, also for types alone: dotted names of modules or of things in them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
              and node.func.id in ("require", "require_installed") and isinstance(node.args[0], ast.Constant)):
            yield str(node.args[0].value)


@cache
def graph() -> dict[str, set[str]]:
    """Each module of the package with those of the package that it imports."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = ({full, full.rpartition(".")[0]} & known.keys() for full in imported_names(path))
        found[name] = {max(target, key=len) for target in targets if target} - {name}
    return found


def room_of(module: str) -> str:
    """``"io"`` of ``napari_claps.io.tiff``, and the name itself for the modules of the root."""
    return [*module.split("."), PACKAGE][1]


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each imports each other, directly or by way of others (Tarjan's algorithm)."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in imports[module]:
            if other not in number:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            at = stack.index(module)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for module in imports:
        if module not in number:
            visit(module)
    return found


def declared(text: str) -> str:
    """``"napari[all]>=0.7"`` -> ``"napari"``, as PyPI spells it."""
    return normal(re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for e in EXTRAS for line in project["optional-dependencies"][e])]
    return {declared(line) for line in lines}


@cache
def third_party() -> dict[str, set[str]]:
    """Top name of each library that is imported, with the modules that do."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in modules().items():
        for full in imported_names(path):
            top = full.split(".")[0]
            if top != PACKAGE and top not in sys.stdlib_module_names:
                found[top].add(module)
    return found


def test_the_root_holds_what_all_rooms_share_and_nothing_else() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == IN_THE_ROOT


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms == {room for floor in FLOORS for room in floor} - IN_THE_ROOT


def test_a_circle_would_be_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]


def test_no_modules_import_each_other_in_circles() -> None:
    assert circles(graph()) == []


def test_rooms_know_only_what_lies_below_them() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    upward = [f"{module} -> {other}" for module, others in graph().items() for other in sorted(others)
              if PACKAGE not in (module, other) and room_of(module) != room_of(other)
              and floor[room_of(other)] >= floor[room_of(module)]]
    assert upward == []


def test_the_package_itself_imports_no_room_before_it_is_asked() -> None:
    assert graph()[PACKAGE] == set()


def test_what_is_imported_is_declared() -> None:
    owners, known = packages_distributions(), requirements()
    undeclared = {library: sorted(importers) for library, importers in third_party().items()
                  if not ({normal(name) for name in owners.get(library, [library])} | BROUGHT_BY.get(library, set()))
                  & known}
    assert undeclared == {}


def test_what_is_declared_is_imported_or_says_why_not() -> None:
    owners = packages_distributions()
    used = {normal(name) for library in third_party() for name in owners.get(library, [library])}
    assert requirements() - used == set(NEVER_IMPORTED)
