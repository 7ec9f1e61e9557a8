"""Make the pictures of the documentation: real windows, real results of the shipped bundle.

Run from the root of the repository, where there is no screen under Xvfb::

    xvfb-run -a -s "-screen 0 1400x1000x24 +extension GLX" python docs/make_screenshots.py

Every picture shows an image that may be shown: scikit-image's fundus photograph
(CC0) and a synthetic OCT volume.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import napari
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_claps._widgets._run import State

IMAGES = Path(__file__).parent / "images"
SIZE = (1280, 860)
PLUGIN = "napari-claps"

PICTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "napari_fundus": ("fundus_photograph", ("vessel", "optic_disc", "optic_cup")),
    "napari_oct": ("synthetic_oct", ("drusen", "intraretinal_fluid")),
}
"""Name of the picture: sample and targets."""

PATIENCE = 600.0
"""Seconds to wait for a run."""


def make_picture(name: str, folder: Path = IMAGES, bundle: str | None = None) -> Path:
    """Open a sample, segment it, and save the window as ``NAME.png`` in `folder`."""
    sample, targets = PICTURES[name]
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(*SIZE)
    (image,) = viewer.open_sample(PLUGIN, sample)
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    form = widget.form
    if bundle is not None:
        form.bundle_combo.open_folder(bundle)
    wait_for(lambda: form.modality_combo.modality() is not None)
    form.target_list.set_targets([t for t in targets if t in form.target_list.offered()])
    if image.ndim == 3:
        middle = image.data.shape[0] // 2
        form.slice_choice.mode.setCurrentText("a range")
        form.slice_choice.last.setValue(middle + 2)
        form.slice_choice.first.setValue(middle - 2)
        viewer.dims.set_current_step(0, middle)
    viewer.reset_view(margin=0.02)
    widget.run()
    wait_for(lambda: widget.runner.state is State.IDLE)
    viewer.layers.selection = {image}
    pause(1.0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    print(f"{path}: {form.status.text()!r}")
    viewer.close()
    return path


def wait_for(ready: Callable[[], bool]) -> None:
    """Let the window work until `ready`."""
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            sys.exit("The run did not end in time.")
        pause(0.05)


def pause(seconds: float) -> None:
    """Let the window work for `seconds`."""
    done: list[bool] = []
    QTimer.singleShot(round(seconds * 1000), lambda: done.append(True))
    while not done:
        QApplication.processEvents()
        time.sleep(0.005)


def main() -> None:
    """Make all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {list(PICTURES)} (default: all)")
    parser.add_argument("-o", "--output", type=Path, default=IMAGES, help="folder (default: %(default)s)")
    parser.add_argument("--bundle", help="folder of another bundle than the shipped one")
    arguments = parser.parse_args()
    for name in arguments.names or PICTURES:
        make_picture(name, arguments.output, arguments.bundle)


if __name__ == "__main__":
    main()
