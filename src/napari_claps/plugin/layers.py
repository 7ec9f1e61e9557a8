"""Between napari's layers and our own types: pixels, spacing, colours, and what derived layers copy."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_claps.errors import InputError
from napari_claps.io.pixels import grey_or_rgb
from napari_claps.plugin.origin import ORIGIN, Origin, origin_of
from napari_claps.session.layers import Placement
from napari_claps.types import Box, BoxSource, Modality, RetinalImage, SpacingSource
from napari_claps.words.appearance import label_colour, shown_name
from napari_claps.words.vocabulary import kind_of

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.utils.colormaps import CyclicLabelColormap

KEY = "napari_claps"
"""Where a layer's ``metadata`` keeps what we know about it, in plain JSON types."""

BOX_COLUMNS = ("label", "score", "slice", "source", "instance")
"""Columns of the features table of a boxes layer."""

_SHADES = ((1.0, 0.72), (0.6, 1.0), (0.85, 0.85), (0.5, 0.8))
"""Factors of saturation and value for the second to fifth object; then the colours come again."""

SPATIAL = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""What places a layer in the world; these names are attributes, and arguments of all layers."""

UNCERTAINTY_STYLE: dict[str, Any] = {"contrast_limits": (0, 1), "colormap": "inferno", "blending": "additive"}
"""How entropy in bits per pixel is shown, during a run and from a file."""


def spatial_metadata(layer: Layer) -> dict[str, Any]:
    """Everything that places `layer` in the world, as keyword arguments of a layer of the same axes."""
    return {name: getattr(layer, name) for name in SPATIAL}


def spacing_of(layer: Layer) -> tuple[float, ...] | None:
    """Millimetres per pixel along each axis of `layer`, or None if an axis is not in a unit of length."""
    return spacing_in({**spatial_metadata(layer), "affine": layer.affine.affine_matrix})


def spacing_in(attributes: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Like `spacing_of`, from the attributes of a layer data tuple."""
    return Placement(**{name: attributes[name] for name in SPATIAL if name in attributes}).spacing


@dataclass(frozen=True, eq=False)
class LayerSource:
    """What was read from an image layer on the main thread; its pixels are read later, off that thread.

    Parameters
    ----------
    data : array-like
        Of the layer at full resolution, perhaps lazy.
    rgb : bool
    name : str
        Of the layer.
    spacing : tuple of float or None
        mm per axis, as the layer is placed now.
    origin : Origin or None
        What the file says, if the layer shows the whole of it.
    modality, laterality
        As the layer's metadata say, where there is no origin.
    """

    data: Any
    rgb: bool
    name: str
    spacing: tuple[float, ...] | None
    origin: Origin | None
    modality: Modality | None
    laterality: str | None

    @classmethod
    def of(cls, layer: Image) -> LayerSource:
        """Take what is needed from `layer`.

        Raises
        ------
        InputError
            If the layer is neither a plane (y, x) nor a volume (z, y, x).
        """
        if layer.ndim not in (2, 3):
            axes = ", ".join(layer.axis_labels)
            raise InputError(
                f"Layer {layer.name!r} has {layer.ndim} axes ({axes}); an image has 2 (y, x) and a volume 3 (z, y, x). "
                "Split it into layers of at most 3 axes, for example with 'Layers > Data > Split Stack', and take one."
            )
        known = layer.metadata.get(KEY) or {}
        data = layer.data[0] if layer.multiscale else layer.data
        origin = origin_of(layer)
        whole = origin is not None and origin.image.data.shape == tuple(data.shape)  # of a part nothing else fits
        return cls(
            data=data, rgb=bool(layer.rgb), name=layer.name, spacing=spacing_of(layer),
            origin=origin if whole else None,
            modality=Modality(known["modality"]) if known.get("modality") in set(Modality) else None,
            laterality=known.get("laterality"),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(y, x) or (z, y, x), without colour."""
        return tuple(int(n) for n in self.data.shape[: self.data.ndim - int(self.rgb)])

    def image(self) -> RetinalImage:
        """Read the pixels, by the rules that hold for files, with what the file says and the layer's own spacing.

        Raises
        ------
        InputError
            If the pixels are not finite real numbers, if a fourth channel hides some, or if they are too few.
        """
        if self.origin is not None and self.data is self.origin.image.data:
            return self._placed(self.origin.image)
        pixels, rgb = grey_or_rgb(np.asarray(self.data), f"Layer {self.name!r}", colour=self.rgb)
        if self.origin is not None and (self.origin.image.rgb, self.origin.image.data.shape) == (rgb, pixels.shape):
            return self._placed(replace(self.origin.image, data=pixels, source=self.name))
        return RetinalImage(
            data=pixels, rgb=rgb, modality=self.modality, spacing=self.spacing, laterality=self.laterality,
            spacing_source=SpacingSource.NONE if self.spacing is None else SpacingSource.USER, source=self.name,
        )

    def _placed(self, image: RetinalImage) -> RetinalImage:
        """The image with the spacing of the layer, where somebody changed it in the viewer."""
        said = image.spacing
        if self.spacing is None and said is None:
            return image  # the file may still know the spacing within a slice
        if self.spacing is not None and said is not None and np.allclose(self.spacing, said, rtol=1e-6, atol=0):
            return image
        source = SpacingSource.NONE if self.spacing is None else SpacingSource.USER
        return replace(image, spacing=self.spacing, plane_spacing=None, spacing_source=source)


def image_layer_data(
    image: RetinalImage, name: str, *, path: Path | None = None
) -> tuple[np.ndarray, dict[str, Any], str]:
    """Layer data tuple of `image`, with its spacing in mm when it has one; `path` is the file it was read from."""
    known = {
        "modality": image.modality and str(image.modality),
        "laterality": image.laterality,
        "spacing_mm": image.spacing and list(image.spacing),
        "spacing_source": str(image.spacing_source),
        **plain(image.metadata),
    }
    options: dict[str, Any] = {
        "name": name,
        "rgb": image.rgb,
        "axis_labels": ("z", "y", "x") if image.is_volume else ("y", "x"),
        "metadata": {KEY: known, ORIGIN: Origin(image, path)},
    }
    if image.spacing is not None:
        options |= {"scale": image.spacing, "units": ("mm",) * len(image.spacing)}
    return image.data, options, "image"


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of `values` in plain JSON types; what has none becomes text."""

    def fallback(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        return str(value)

    return json.loads(json.dumps(dict(values), default=fallback))


def target_colour(label: str) -> tuple[float, float, float]:
    """Colour of a label in 0..1; see `label_colour`."""
    r, g, b = label_colour(label)
    return r / 255, g / 255, b / 255


def mask_colormap(label: str) -> CyclicLabelColormap:
    """Colours of a Labels layer: the target's own, in shades that tell neighbouring objects apart.

    A cyclic colormap, because a direct one costs the window a tenth of a second
    for every layer, and seconds for the first one.
    """
    from napari.utils.colormaps import CyclicLabelColormap

    colour = target_colour(label)
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    shades = [colour]
    if not kind_of(label).is_whole:
        bright = max(value, 0.5)
        shades += [colorsys.hsv_to_rgb(hue, saturation * s, bright * v) for s, v in _SHADES]
    colours = np.array([(0, 0, 0, 0), *((*shade, 1) for shade in shades)], dtype=np.float32)
    return CyclicLabelColormap(colors=colours, name=label, display_name=label)


def mask_features(label: str, mask: np.ndarray) -> pd.DataFrame:
    """Features table of the masks of one target: one row per instance, with its number of pixels."""
    instances, pixels = np.unique(mask[mask > 0], return_counts=True)
    names = {"target": label, "name": shown_name(label)}
    return pd.DataFrame({"index": instances, **names, "instance": instances, "pixels": pixels})


def box_corners(box: Box, *, is_volume: bool) -> np.ndarray:
    """Corners of `box` as (4, 2) array of (y, x), or (4, 3) of (z, y, x).

    napari puts pixel centres on whole numbers, so the edge of pixel 3 is at 2.5.
    """
    corners = box.corners - 0.5
    return np.insert(corners, 0, box.slice_index, axis=1) if is_volume else corners


def box_of(corners: np.ndarray, row: Mapping[str, Any], name: str) -> Box:
    """Box around a shape whose features are `row`; without them it is the user's, labelled `name`."""
    # Pixel centres lie on whole numbers in napari, edges half a pixel before them.
    (y0, x0), (y1, x1) = corners[:, -2:].min(axis=0) + 0.5, corners[:, -2:].max(axis=0) + 0.5
    source, instance, uncertainty = row.get("source"), row.get("instance", 0), row.get("uncertainty")
    return Box(
        float(y0), float(x0), float(y1), float(x1),
        label=str(row.get("label", name)), score=float(row.get("score", 1.0)),
        slice_index=round(float(corners[0, 0])) if corners.shape[1] == 3 else 0,
        instance=0 if pd.isna(instance) else int(instance),
        source=BoxSource(source) if source in set(BoxSource) else BoxSource.USER,
        uncertainty=None if uncertainty is None or pd.isna(uncertainty) else float(uncertainty),
    )


def box_features(boxes: Sequence[Box]) -> pd.DataFrame:
    """Features table of `boxes`, one row each."""
    rows = [(b.label, float(b.score), int(b.slice_index), str(b.source), int(b.instance)) for b in boxes]
    return pd.DataFrame(rows, columns=list(BOX_COLUMNS)).astype(
        {"label": object, "score": float, "slice": int, "source": object, "instance": int}
    )


def box_style(plane_shape: tuple[int, int]) -> dict[str, Any]:
    """Look of a boxes layer over planes of this height and width."""
    return {
        "face_color": "transparent",
        "edge_width": max(1.0, max(plane_shape) / 400),
        "opacity": 1.0,
        "text": {"string": "{label} {score:.2f}", "size": 8, "color": "white", "anchor": "upper_left"},
    }


def box_colours(boxes: Sequence[Box]) -> np.ndarray:
    """Edge colours as (n, 4) RGBA in 0..1."""
    return np.array([(*target_colour(b.label), 1.0) for b in boxes], dtype=float).reshape(-1, 4)
