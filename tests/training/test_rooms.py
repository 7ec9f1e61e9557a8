"""The rooms of the training lie one above the other, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ORDER = ("data", "losses", "run", "choose", "stages", "report", "layers", "recipe", "history")


def imports(path: Path) -> set[str]:
    """Modules of the training and the benchmarks that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("training", "benchmarks")}


def modules() -> dict[str, set[str]]:
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
             for folder in ("training", "benchmarks") for p in (ROOT / folder).rglob("*.py")}
    return {name: (imports(path) & files.keys()) - {name} for name, path in files.items()}


def test_no_modules_import_each_other() -> None:
    assert len(list(TopologicalSorter(modules()).static_order())) > 50  # raises CycleError


def test_rooms_import_only_from_rooms_below() -> None:
    def room(name: str) -> int:
        return ORDER.index(name.split(".")[1])

    upwards = [(name, other) for name, others in modules().items() if name.startswith("training.")
               for other in others if not other.startswith("training.") or room(other) > room(name)]
    assert upwards == []
