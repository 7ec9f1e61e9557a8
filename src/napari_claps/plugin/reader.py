"""Opening files in napari: retinal images with their spacing, our own masks and boxes, and sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_claps.errors import ClapsError
from napari_claps.io import identify, read
from napari_claps.io.formats import suffix_of
from napari_claps.plugin.layers import image_layer_data
from napari_claps.plugin.saved_layers import is_boxes_file, is_channels_file, read_boxes, read_channels
from napari_claps.session import SUFFIX

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | Sequence[str]], list[LayerData]]


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Return the function that opens `path`, or None when its bytes are not of a kind that we know.

    A list of paths is a stack, which napari makes by itself. Never raises.
    """
    if not isinstance(path, str):
        return None
    file = Path(path)
    try:
        if file.suffix.lower() == ".json":
            return _open_boxes if is_boxes_file(file) else None
        if file.name.lower().endswith(SUFFIX):  # nobody else's: a damaged one gets our reason, too
            return _open_session if file.is_file() else None
        identify(file)
    except (ClapsError, OSError, ValueError):
        return None
    return open_image


def open_image(path: str | Sequence[str]) -> list[LayerData]:
    """Open an image, a volume (also a folder of B-scans or DICOM files), or masks and uncertainty of ours as layers."""
    file = Path(str(path))
    if is_channels_file(file):
        return read_channels(file)
    image = read(file)
    # The stem names the layer; for vendor files it may be the patient's, so layers alone know it, no output does.
    name = file.name[: -len(suffix_of(file) or file.suffix) or None]
    return [image_layer_data(image, name, path=file.absolute())]


def _open_boxes(path: str | Sequence[str]) -> list[LayerData]:
    return read_boxes(Path(str(path)))


def _open_session(path: str | Sequence[str]) -> list[LayerData]:
    from napari_claps.plugin.session_read import read_layers

    return read_layers(Path(str(path)))
