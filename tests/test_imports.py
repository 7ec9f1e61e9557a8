"""The core stays free of napari and Qt, and opening a file or a menu never waits for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

GUARD = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError('must not be imported here: ' + name)
sys.meta_path.insert(0, Forbidden())
{code}
"""
QT = ("napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "magicgui", "vispy")


def run_blocked(code: str, blocked: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", GUARD.format(blocked=blocked, code=code)], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_package_imports_without_torch_napari_or_qt() -> None:
    run_blocked("import napari_claps; assert napari_claps.__version__; napari_claps.RetinalImage; napari_claps.read",
                (*QT, "torch"))


@pytest.mark.parametrize("module", ["io", "files", "words.vocabulary", "synthetic.samples", "measurement",
                                    "results", "results.overlay", "session", "settings", "models.bundles.manifest",
                                    "methods", "evaluate", "cli"])
def test_files_and_numbers_need_no_torch(module: str) -> None:
    run_blocked(f"import napari_claps.{module}", (*QT, "torch", "transformers"))


def test_pipeline_needs_no_napari() -> None:
    run_blocked("import napari_claps.inference.single_scale, napari_claps.study.batch", QT)


@pytest.mark.parametrize("module", ["reader", "writer", "sample_data"])
def test_plugin_commands_import_without_torch(module: str) -> None:
    run_blocked(f"import napari_claps.plugin.{module}", ("torch", "transformers"))
