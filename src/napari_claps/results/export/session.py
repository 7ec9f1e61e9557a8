"""A result folder as a session, to open it in napari with everything in its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from napari_claps.errors import InputError
from napari_claps.results.saved_result import SavedResult
from napari_claps.session import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    Layer,
    MaskLayer,
    Placement,
    Session,
    write_session,
)
from napari_claps.settings import Settings
from napari_claps.words.appearance import shown_name


def write_result_session(
    result: SavedResult, path: Path, *, source: Path | None = None, copy_image: bool = False
) -> list[Path]:
    """Write masks, boxes, settings and provenance as ``.claps.zip``.

    Parameters
    ----------
    result : SavedResult
    path : Path
    source : Path, optional
        The image; without it the session has none.
    copy_image : bool
        Put its pixels in, instead of a reference.

    Raises
    ------
    InputError
        If the source cannot be read or is of another size, or is to be copied and not given.
    OutputError
        If the file cannot be written.
    """
    place = Placement(
        scale=result.spacing, units=("mm",) * len(result.shape) if result.spacing else None,
        axis_labels=tuple("zyx"[-len(result.shape) :]),
    )  # fmt: skip
    layers: list[Layer] = []
    if copy_image and source is None:
        raise InputError(f"{path}: --copy-image needs the image. Give it with --source.")
    if source is not None:
        image = result.read_image(source) if copy_image else ImageReference.of(source)
        layers.append(ImageLayer(source.name, image, place))
    for name in result.names:
        layers.append(MaskLayer(shown_name(name), name, result.mask(name), placement=place))
    layers.append(BoxLayer("boxes", result.boxes, result.shape, placement=place))
    write_session(path, Session(
        layers=tuple(layers), settings=_settings(result), targets=result.names, provenance=dict(result.provenance),
    ))  # fmt: skip
    return [path]


def _settings(result: SavedResult) -> Settings | None:
    """What the provenance says of the settings."""
    asked = result.provenance.get("request")
    if not isinstance(asked, dict):
        return None
    known = {field.name for field in dataclasses.fields(Settings)}
    values = {name: value for name, value in asked.items() if name in known}
    bundle = (result.provenance.get("bundle") or {}).get("name")
    return Settings().updated(values | ({"bundle": bundle} if bundle else {}), where=str(result.source))
