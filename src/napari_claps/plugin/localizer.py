"""On request, what an OCT file knows beside the volume: localizer, scan lines, and the device's layer lines.

The localizer is a plane layer to the left of the B-scan, as review stations show
it: it has no axis of its own beside y and x, so that the slider of the volume
stays as it is. Its scan lines are one plane layer, too; a second layer has each
line in the slice that it belongs to, so that the line in view lights up.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pint
from napari.layers import Image, Layer, Shapes
from napari.utils.notifications import show_warning
from napari.viewer import Viewer

from napari_claps.plugin.layers import KEY, image_layer_data, spacing_of, spatial_metadata
from napari_claps.plugin.origin import origin_of
from napari_claps.types import RetinalImage

OF = "napari_claps_of"
"""Where the metadata of a layer made here keep the `Origin` that it was made from."""

LOCALIZER, LINES, LINE_IN_VIEW, SURFACES = "localizer", "scan lines", "scan line in view", "layer lines"

_GAP = 0.03
"""Room between localizer and B-scan, as part of the width of the B-scan."""

_GREEN, _YELLOW = "#33cc4d99", "#ffe619"


def show_localizer(viewer: Viewer) -> None:
    """Show the localizer of the selected OCT image beside it, with its scan lines.

    Parameters
    ----------
    viewer : Viewer
        Says in a warning what is missing.
    """
    chosen = _chosen(viewer, lambda image: image.localizer is not None, LOCALIZER)
    if chosen is None or _again(viewer, chosen[0], LOCALIZER, LINES, LINE_IN_VIEW):
        return
    volume, image = chosen
    localizer, name = image.localizer, volume.name
    assert localizer is not None, "it was chosen for that"
    place = _beside(volume, localizer)
    data, options, _ = image_layer_data(localizer, f"{LOCALIZER} of {name}")
    options["metadata"] = {**options["metadata"], **_metadata(volume, LOCALIZER, **options["metadata"][KEY])}
    made: list[Layer] = [Image(data, **options | place)]
    if image.scan_lines is not None:
        width = max(localizer.plane_shape) / 400
        features = pd.DataFrame({"slice": np.arange(len(image.scan_lines))})
        common = {"shape_type": "path", "features": features, "opacity": 1.0}
        alone = len(image.scan_lines) == 1
        made.append(Shapes(
            list(image.scan_lines), ndim=2, edge_color=_YELLOW if alone else _GREEN,
            edge_width=2.5 * width if alone else width, name=f"{LINES} of {name}",
            metadata=_metadata(volume, LINES), **common, **place,
        ))  # fmt: skip
        if volume.ndim == 3 and (through := _through(volume, place)):
            lines = [np.insert(line, 0, z, axis=1) for z, line in enumerate(image.scan_lines)]
            made.append(Shapes(
                lines, ndim=3, edge_color=_YELLOW, edge_width=2.5 * width, name=f"{LINE_IN_VIEW} of {name}",
                text={"string": "{slice}", "color": "yellow", "anchor": "upper_left", "size": 10},
                metadata=_metadata(volume, LINE_IN_VIEW), **common, **through,
            ))  # fmt: skip
    _add(viewer, volume, made)
    viewer.reset_view()


def show_layer_lines(viewer: Viewer) -> None:
    """Show the layer lines that the device drew into the selected OCT image, one path per slice and surface.

    Their features are ``line``, the name of the surface, and ``slice``. A line
    with a gap is several paths.

    Parameters
    ----------
    viewer : Viewer
        Says in a warning what is missing.
    """
    chosen = _chosen(viewer, lambda image: bool(image.layers), SURFACES)
    if chosen is None or _again(viewer, chosen[0], SURFACES):
        return
    volume, lines = chosen[0], chosen[1].layers
    paths: list[np.ndarray] = []
    rows: list[tuple[str, int]] = []
    colours: list[tuple[float, ...]] = []
    for number, (name, depths) in enumerate(lines.items()):
        colour = (*colorsys.hsv_to_rgb(number * 0.618 % 1, 0.75, 1.0), 1.0)  # the golden ratio keeps neighbours apart
        for z, depth in enumerate(depths):
            for run in _runs(np.isfinite(depth)):
                path = np.stack([depth[run], np.arange(run.start, run.stop)], axis=1)
                paths.append(np.insert(path, 0, z, axis=1) if volume.ndim == 3 else path)
                rows.append((name, z))
                colours.append(colour)
    if not paths:
        show_warning(f"The layer lines of {volume.name!r} hold no point.")
        return
    _add(viewer, volume, [Shapes(
        paths, ndim=volume.ndim, shape_type="path", edge_color=np.array(colours), edge_width=1.0, opacity=1.0,
        features=pd.DataFrame(rows, columns=["line", "slice"]), name=f"{SURFACES} of {volume.name}",
        metadata=_metadata(volume, SURFACES), **spatial_metadata(volume),
    )])  # fmt: skip


def _chosen(viewer: Viewer, has: Callable[[RetinalImage], bool], what: str) -> tuple[Image, RetinalImage] | None:
    """The selected image layer, or the only one that `has` it, and its file; None after a warning that says why."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image)]
    able = {layer: origin.image for layer in images
            if (origin := origin_of(layer)) is not None and has(origin.image)}
    active = viewer.layers.selection.active
    if active in able:
        return active, able[active]
    if isinstance(active, Image) and origin_of(active) is not None and active not in able:
        show_warning(f"The file of {active.name!r} holds no {what}. Heidelberg .vol, .e2e and HEYEX XML exports may "
                     "have them; pictures and DICOM files of B-scans have not.")
    elif len(able) == 1:
        return next(iter(able.items()))
    elif able:
        show_warning(f"{len(able)} images have {what}: select one of {', '.join(repr(i.name) for i in able)}.")
    elif images:
        show_warning(f"No image has {what}. Open the OCT file itself, such as a Heidelberg .vol, with 'CLAPS retina': "
                     "other readers pass on the pixels alone.")
    else:
        show_warning(f"There is no image. Open an OCT file that has {what}, such as Heidelberg .vol.")
    return None


def _again(viewer: Viewer, volume: Image, *contents: str) -> bool:
    """Whether such layers of this volume are there already; they are made visible then."""
    found = [layer for layer in viewer.layers if layer.metadata.get(OF) is origin_of(volume)
             and layer.metadata[KEY]["content"] in contents]
    for layer in found:
        layer.visible = True
    return bool(found)


def _metadata(volume: Image, content: str, **known: Any) -> dict[str, Any]:
    return {KEY: {**known, "content": content}, OF: origin_of(volume)}


def _add(viewer: Viewer, volume: Image, layers: list[Layer]) -> None:
    for layer in layers:
        viewer.add_layer(layer)
    viewer.layers.selection = {volume}


def _beside(volume: Image, localizer: RetinalImage) -> dict[str, Any]:
    """Where a localizer goes: left of the B-scan, at the same height, in the unit of the volume.

    Where one of the two does not know its size, the localizer is as wide as the B-scan, and no length is claimed.
    """
    (top, left), (bottom, right) = volume.extent.world[:, -2:]
    size = np.array(localizer.plane_shape)
    units = volume.units[-2:]
    if localizer.spacing is not None and spacing_of(volume) is not None:
        lengths = [(mm * pint.get_application_registry().Unit("mm")).to(unit).magnitude
                   for mm, unit in zip(localizer.spacing, units, strict=True)]
        scale = np.array(lengths, float)
    else:
        scale = np.full(2, (right - left) / size[1])
        units = ("pixel", "pixel")
    corner = ((top + bottom) / 2 - scale[0] * size[0] / 2, left - _GAP * (right - left) - scale[1] * size[1])
    return {"scale": scale, "translate": corner + scale / 2, "units": units, "axis_labels": volume.axis_labels[-2:]}


def _through(volume: Image, place: dict[str, Any]) -> dict[str, Any] | None:
    """Place of a plane layer with the slices of the volume before it; None if those do not lie along one axis."""
    start, step = (np.asarray(volume.data_to_world((z, 0, 0))) for z in (0, 1))
    if not np.allclose(step[1:], start[1:]):
        return None
    return {
        "scale": (step[0] - start[0], *place["scale"]), "translate": (start[0], *place["translate"]),
        "units": (volume.units[0], *place["units"]), "axis_labels": volume.axis_labels,
    }  # fmt: skip


def _runs(valid: np.ndarray) -> list[slice]:
    """Stretches of at least two True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(np.int8)))
    return [slice(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a > 1]
