"""``claps info``: what is installed here, and whether it can work."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

_QT_CHECK = """
import torch
from qtpy import API_NAME, QT_VERSION
from qtpy.QtWidgets import QApplication
application = QApplication(["claps"])
print(f"{API_NAME} {QT_VERSION}, platform {application.platformName()}")
"""
"""Runs in a process of its own: Qt aborts the process when it does not find its platform."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``info`` command."""
    parser = subparsers.add_parser(
        "info", help="versions, devices, bundles and Qt of this installation",
        description="Show versions and devices, check the files of the bundles, and try Qt without a window.",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report.

    Returns
    -------
    int
        1 when a bundle is damaged or there is none; a missing display is no failure.
    """
    from napari_claps.results.provenance import library_versions

    for name, version in library_versions().items():
        print(f"{name:18} {version or 'not installed'}")
    print(f"{'device':18} {_devices()}")
    bundles_fine = _print_bundles()
    print(f"{'qt':18} {qt_diagnosis()}")
    return 0 if bundles_fine else 1


def _devices() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken installation raises either
        return f"torch cannot be imported: {error}"
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found)


def _print_bundles() -> bool:
    from napari_claps.errors import ClapsError
    from napari_claps.models.bundles.bundle import load_bundle
    from napari_claps.models.bundles.manifest import available_bundles

    try:
        bundles = available_bundles()
    except ClapsError as error:
        print(f"{'bundle':18} {error}")
        return False
    fine = bool(bundles)
    for manifest in bundles:
        try:
            load_bundle(str(manifest.folder), device="cpu")
            state = "complete, loads"
        except ClapsError as error:
            state, fine = str(error), False
        print(f"{'bundle':18} {manifest.name} {manifest.version}: {state}")
    if not bundles:
        print(f"{'bundle':18} none is installed")
    return fine


def qt_diagnosis() -> str:
    """Say whether Qt would start here, and if not, what would help."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display (DISPLAY is not set): claps gui needs one, or xvfb-run; all other commands do not"
    try:
        check = subprocess.run([sys.executable, "-c", _QT_CHECK], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "does not answer within 2 minutes"
    if check.returncode == 0:
        return check.stdout.strip().splitlines()[-1]
    said = check.stderr.strip().splitlines() or [f"ended with code {check.returncode}"]
    hints = []
    if "QtBindingsNotFoundError" in check.stderr or "No Qt bindings" in check.stderr:
        hints.append('install a binding: pip install "napari-claps[all]"')
    if "xcb" in check.stderr:
        hints.append("install Qt's xcb libraries (Debian: libxcb-cursor0 libxkbcommon-x11-0 and others)")
    if "QT_QPA_PLATFORM_PLUGIN_PATH" in os.environ:
        hints.append("unset QT_QPA_PLATFORM_PLUGIN_PATH, which points Qt to plugins of another library")
    return f"does not start: {said[-1]}" + "".join(f"; {hint}" for hint in hints)
