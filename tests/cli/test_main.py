"""The command line as a whole, and the commands besides ``claps segment``."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from napari_claps import __version__, cli
from tests.command_line import assert_one_error


def test_help_and_version(claps):
    code, out, _ = claps("--help")
    assert code == 0
    for command in cli.COMMANDS:
        assert command in out
    assert claps("--version")[:2] == (0, f"napari-claps {__version__}\n")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(claps, command):
    code, out, _ = claps(command, "--help")
    assert code == 0
    assert "usage: claps " + command in out


def test_sample(claps, tmp_path):
    code, out, _ = claps("sample", "--list")
    assert code == 0
    assert "synthetic_oct" in out
    code, out, _ = claps("sample", "microaneurysm_crop", "-o", tmp_path / "s")
    assert code == 0
    assert Image.open(out.strip()).size == (102, 102)
    code, _, err = claps("sample", "nothing", "-o", tmp_path / "t")
    assert code == 2
    assert_one_error(err, "'nothing'", "fundus_photograph")
    assert not (tmp_path / "t").exists()


def test_models_lists_pairs(claps, tiny_bundle):
    code, out, _ = claps("models", "list", tiny_bundle)
    assert code == 0
    assert "cfp" in out
    assert "drusen" in out
    code, _, err = claps("models", "list", "no-such-bundle")
    assert code == 2
    assert_one_error(err, "no-such-bundle")


def test_measure_of_what_is_no_mask(claps, photo):
    code, _, err = claps("measure", photo)
    assert code == 2
    assert_one_error(err, "photo.png")


def test_info_without_a_display(claps, monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux can lack a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    _, out, _ = claps("info")
    assert "numpy" in out
    assert "cpu" in out
    assert "no display" in out


def test_gui_with_a_missing_file_opens_no_window(claps, tmp_path):
    code, _, err = claps("gui", tmp_path / "none.tif")
    assert code == 2
    assert_one_error(err, "none.tif", "no such file")


def test_help_needs_no_torch():
    script = ("import sys\nfrom napari_claps import cli\ncode = cli.main(['segment', '--help'])\n"
              "sys.exit(code or any(m in sys.modules for m in ('torch', 'napari', 'qtpy')))")  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
