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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import napari
import numpy as np
from napari.layers import Image
from PIL import Image as Picture
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_claps.plugin.widgets import SegmentWidget
from napari_claps.plugin.widgets.run import State

IMAGES = Path(__file__).parent / "images"
SIZE = (1280, 860)
PLUGIN = "napari-claps"

PATIENCE = 900.0
"""Seconds to wait for a run."""


@dataclass
class Window:
    """A viewer with a sample and the Segment widget, ready to run."""

    viewer: napari.Viewer
    image: Image
    widget: SegmentWidget

    @classmethod
    def open(cls, sample: str, targets: Sequence[str], bundle: str | None) -> Window:
        """Open a sample, and tick targets."""
        viewer = napari.Viewer(show=True)
        viewer.window._qt_window.resize(*SIZE)
        (image,) = viewer.open_sample(PLUGIN, sample)
        _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
        if bundle is not None:
            widget.form.bundle_combo.open_folder(bundle)
        wait_for(lambda: widget.form.modality_combo.modality() is not None)
        widget.form.target_list.set_targets([t for t in targets if t in widget.form.target_list.offered()])
        return cls(viewer, image, widget)

    def run(self) -> None:
        """Segment, and wait for the end."""
        self.viewer.reset_view(margin=0.02)
        self.widget.run()
        wait_for(lambda: self.widget.runner.state is State.IDLE)
        print(repr(self.widget.form.status.text()))
        self.viewer.layers.selection = {self.image}

    def dock(self, name: str) -> object:
        """Open another widget of the plugin."""
        _, widget = self.viewer.window.add_plugin_dock_widget(PLUGIN, name)
        return widget


def fundus(bundle: str | None) -> Window:
    """Vessels, disc and cup of a photograph."""
    window = Window.open("fundus_photograph", ("vessel", "optic_disc", "optic_cup"), bundle)
    window.run()
    return window


def oct_slices(bundle: str | None) -> Window:
    """Lesions in a few slices of a volume."""
    window = Window.open("synthetic_oct", ("drusen", "intraretinal_fluid"), bundle)
    middle, choice = window.image.data.shape[0] // 2, window.widget.form.slice_choice
    choice.mode.setCurrentText("a range")
    choice.last.setValue(middle + 2)
    choice.first.setValue(middle - 2)
    window.viewer.dims.set_current_step(0, middle)
    window.run()
    return window


def coverage(bundle: str | None) -> Window:
    """Inner and outer masks around the optic disc."""
    window = Window.open("fundus_photograph", ("vessel", "optic_disc"), bundle)
    advanced, layers = window.widget.form.advanced, window.viewer.layers
    advanced.expand(animate=False)
    advanced.coverage.choose(0.8)
    window.run()
    disc = layers["optic disc"]
    layers["boxes"].visible = False
    layers.selection = {layers["optic disc inner"]}
    look_at(window.viewer, np.argwhere(disc.data).mean(axis=0), closer=4)
    return window


def volume(bundle: str | None) -> Window:
    """The places of a volume to look at, and a thickness map."""
    window = Window.open("synthetic_oct", ("intraretinal_fluid", "retina"), bundle)
    window.run()
    viewer = window.viewer
    viewer.layers["boxes"].visible = False
    window.widget.parent().hide()
    doubts, maps = window.dock("Doubtful places"), window.dock("En-face maps")
    maps.map_combo.setCurrentText("thickness")
    maps.labels_combo.set_layer(viewer.layers["retina"])
    maps.make()
    wait_for(maps.button.isEnabled)
    whole = viewer.scene.camera.center, viewer.scene.camera.zoom
    table, middle = doubts.table, window.image.data.shape[0] // 2
    table.sortItems(0)
    row = next(row for row in range(table.rowCount()) if int(table.item(row, 0).text()) >= middle)
    table.setCurrentCell(row, 0)
    table.scrollToItem(table.item(row, 0), table.ScrollHint.PositionAtCenter)
    viewer.scene.camera.center, viewer.scene.camera.zoom = whole
    return window


PICTURES: dict[str, Callable[[str | None], Window]] = {
    "napari_fundus": fundus, "napari_oct": oct_slices, "napari_coverage": coverage, "napari_volume": volume,
}  # fmt: skip
"""How each picture is made."""

FEW_COLOURS = ("napari_coverage", "napari_volume")
"""Pictures that are kept small with a palette of 256 colours."""


def make_picture(name: str, folder: Path = IMAGES, bundle: str | None = None) -> Path:
    """Save a window as ``NAME.png`` in `folder`."""
    window = PICTURES[name](bundle)
    pause(1.0)
    shot = Picture.fromarray(window.viewer.screenshot(canvas_only=False, flash=False)[..., :3])
    if name in FEW_COLOURS:
        shot = shot.quantize(256, dither=Picture.Dither.NONE)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    shot.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    window.viewer.close()
    return path


def look_at(viewer: napari.Viewer, centre: Sequence[float], *, closer: float) -> None:
    """Bring a place (y, x) to the middle, and come closer."""
    camera = viewer.scene.camera
    camera.center = (0.0, *centre)
    camera.zoom *= closer


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
