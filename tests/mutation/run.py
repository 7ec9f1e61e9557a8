"""Change the source a little, one place at a time, and see whether a test notices: ``python -m tests.mutation.run``.

Numbers, comparisons, ``+ - * /``, ``and``/``or``, ``not`` and truth values are changed in the rooms of ``config.toml``,
which also says which tests are asked for which file. Nothing is written into the source: each mutant lives in a process
of its own, forked from one that has imported the slow libraries already. Survivors go to a JSON-lines file, from which
``docs/mutants.md`` is written by hand. Not a part of the usual tests: it takes an hour or more on one core.

Why not a library: mutmut changes what is inside of functions and leaves the constants of a module alone, which are what
most results hang on; cosmic-ray makes 8,337 mutants of these rooms and starts Python anew for each, which is a day.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads(Path(__file__).with_name("config.toml").read_text(encoding="utf-8"))
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
FIXED = {"frozen", "eq", "repr", "init", "strict", "sort", "axis", "keepdims", "return_labels", "directed", "order"}
"""Keyword arguments whose values shape no number of a result."""


def mutants(tree: ast.Module) -> Iterator[tuple[ast.AST, Callable[[], None]]]:
    """Places of a module, each with what changes it."""
    fixed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in FIXED:
            fixed.add(id(node.value))
        elif isinstance(node, ast.Subscript):  # which item is meant, not how much
            fixed.update(id(n) for n in ast.walk(node.slice) if isinstance(n, ast.Constant))
        elif isinstance(node, ast.AnnAssign):
            fixed.update(id(n) for n in ast.walk(node.annotation))
    for node in ast.walk(tree):
        if id(node) in fixed:
            continue
        if isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield node, partial(setattr, node, "value", other_value(node.value))
        elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS and not is_text(node):
            yield node, partial(setattr, node, "op", OPERATORS[type(node.op)]())
        elif isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                if type(op) in OPERATORS:
                    yield node, partial(node.ops.__setitem__, i, OPERATORS[type(op)]())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, partial(setattr, node, "operand", ast.UnaryOp(ast.Not(), node.operand))


def other_value(value: float) -> float:
    """The other truth value, twice a number, or one more than 0 and 1."""
    if isinstance(value, bool):
        return not value
    return value + 1 if value in (0, 1) else value * 2


def is_text(node: ast.AST) -> bool:
    """Whether an operation joins texts, as a message does."""
    return any(isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
               for n in ast.walk(node))


def mutant(tree: ast.Module, number: int) -> tuple[ast.Module, dict[str, str | int]]:
    """The module with its mutant `number`, and what that is."""
    tree = copy.deepcopy(tree)
    node, change = list(mutants(tree))[number]
    before = ast.unparse(node)
    change()
    return ast.fix_missing_locations(tree), {
        "line": node.lineno, "column": node.col_offset, "before": before, "after": ast.unparse(node)}


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, name: str, tree: ast.Module, path: Path) -> None:
        self.name, self.tree, self.path = name, tree, path

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.path, loader=self,
                                                      submodule_search_locations=package)

    def exec_module(self, module) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def ask(name: str, tree: ast.Module, path: Path, tests: list[str], limit: float) -> str:
    """Whether the tests notice: ``killed``, ``survived`` or ``timeout`` (which counts as noticed)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return _ask(name, tree, path, ["--basetemp", f"{folder}/tests", *tests], limit)


def _ask(name: str, tree: ast.Module, path: Path, arguments: list[str], limit: float) -> str:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        sys.meta_path.insert(0, Mutated(name, tree, path))
        code = 1
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            import pytest

            code = int(pytest.main(["-x", "-q", "-W", "ignore", "-p", "no:cacheprovider", "--no-header", *arguments]))
        os._exit(code)
    start = time.monotonic()
    try:
        while time.monotonic() - start < limit:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                child = 0
                return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
            time.sleep(0.02)
        return "timeout"
    finally:
        if child:  # also when the run is interrupted
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def main() -> None:
    """Run all mutants of the files that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="as in config.toml, such as volumes/doubts.py")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="results, one line each")
    parser.add_argument("--every", type=int, default=1, help="only every n-th mutant of each file: a sample")
    parser.add_argument("--again", action="store_true", help="only those that survived before, after tests were added")
    arguments = parser.parse_args()
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    for library in CONFIG["preload"]:
        importlib.import_module(library)
    gc.freeze()  # what the children share stays shared
    known = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    before = {(r["file"], r["number"]): r["outcome"] for r in map(json.loads, known)}  # an interrupted run goes on
    for file in arguments.files or CONFIG["tests"]:
        path, tests = ROOT / "src/napari_claps" / file, CONFIG["tests"][file]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wanted = [n for n in range(0, sum(1 for _ in mutants(tree)), arguments.every)
                  if before.get((file, n)) == ("survived" if arguments.again else None)]
        if not wanted:
            continue
        name = "napari_claps." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        start = time.monotonic()
        if ask(name, tree, path, tests, 600) != "survived":
            print(f"{file}: left out, its tests fail without any change", flush=True)
            continue
        limit = 20 + 5 * (time.monotonic() - start)
        for number in wanted:
            changed, what = mutant(tree, number)
            result = {"file": file, "number": number, **what, "outcome": ask(name, changed, path, tests, limit)}
            with arguments.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(result) + "\n")
            if result["outcome"] == "survived":
                print("{file}:{line}: {before} -> {after}".format_map(result), flush=True)


if __name__ == "__main__":
    main()
