"""``claps gui``: napari with the Segment widget."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.components import ViewerModel


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``gui`` command."""
    parser = subparsers.add_parser("gui", help="open napari with the Segment widget",
                                   description="Open napari with the Segment widget, and images in it.")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", type=Path, help="images to open; a folder is one volume")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Open the viewer and wait until it is closed."""
    from napari_claps.cli.messages import report_error
    from napari_claps.errors import InputError

    missing = [path for path in arguments.inputs if not path.exists()]
    if missing:
        raise InputError(f"{missing[0]}: there is no such file or folder.")
    import torch  # noqa: F401 - before Qt: from 2.9 on it does not load after it on Windows

    try:
        import napari
        from qtpy import QtWidgets  # noqa: F401 - says whether there is a Qt binding
    except ImportError as error:
        raise InputError('napari needs a Qt binding to open a window: pip install "napari-claps[all]". '
                         f"({error})") from error
    viewer = napari.Viewer()
    viewer.window.add_plugin_dock_widget("napari-claps", "Segment")
    for path in arguments.inputs:
        try:
            _open(viewer, path)
        except Exception as error:  # one bad file shall not close the window
            report_error(error, text=f"{path}: {error}", debug=arguments.debug)
    napari.run()
    return 0


def _open(viewer: ViewerModel, path: Path) -> None:
    """Open a file, or a folder as one volume."""
    if path.is_dir():  # not by the manifest: napari would ask all its users which reader they want for a folder
        from napari.layers import Layer

        from napari_claps.plugin.reader import open_image

        for layer in open_image(str(path)):
            viewer.add_layer(Layer.create(*layer))
    else:  # napari opens pictures itself; our reader is for what it would open without the spacing
        viewer.open(path, plugin="napari-claps" if _is_ours(path) else "napari")


def _is_ours(path: Path) -> bool:
    """Whether our reader is registered for the name of the file, and knows its bytes."""
    from npe2 import PluginManager

    from napari_claps.plugin.reader import get_reader

    readers = PluginManager.instance().iter_compatible_readers([str(path)])
    return any(reader.plugin_name == "napari-claps" for reader in readers) and get_reader(str(path)) is not None
