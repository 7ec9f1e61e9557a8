"""Which attributes of a napari layer a session keeps, and its colormaps as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_claps.plugin.layers import plain

if TYPE_CHECKING:
    from napari.utils.colormaps import Colormap, CyclicLabelColormap

SESSION = "session"
"""Where what we know of a layer keeps settings, targets and provenance of the session that it was opened from."""

_ALL = ("blending", "opacity", "visible", "projection_mode")
_VOLUME = ("rendering", "depiction", "iso_gradient_mode", "iso_threshold", "attenuation")
_TABLE = ("text", "face_color", "feature_defaults")

STYLE: Mapping[str, tuple[str, ...]] = {
    "image": (*_ALL, *_VOLUME, "colormap", "contrast_limits", "gamma", "interpolation2d", "interpolation3d"),
    "labels": (*_ALL, *_VOLUME, "colormap"),
    "shapes": (*_ALL, *_TABLE, "shape_type", "edge_color", "edge_width", "z_index"),
    "points": (*_ALL, *_TABLE, "symbol", "size", "border_color", "border_width", "border_width_is_relative",
               "shading", "antialiasing", "canvas_size_limits", "shown"),
}  # fmt: skip
"""Per type of layer the attributes that say how it looks; names of attributes, and arguments of the layer."""

_LABEL_COLOURS = ("colors", "name", "background_value", "seed")


def style_of(attributes: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Look of a layer in plain JSON types, from the attributes of its layer data tuple."""
    style = {name: attributes[name] for name in STYLE[kind] if name in attributes}
    if kind == "labels":
        colormap = style.pop("colormap")
        if not hasattr(colormap, "color_dict"):  # the colours of a direct one are those of the masks
            style["colormap"] = {name: getattr(colormap, name) for name in _LABEL_COLOURS}
    elif kind == "image":
        style["colormap"] = _name_or_colours(style["colormap"])
    if "feature_defaults" in style:
        defaults = style.pop("feature_defaults")
        if len(defaults.columns) and not defaults.isna().any(axis=None):  # else nobody has chosen them
            style["feature_defaults"] = defaults.iloc[0].to_dict()
    return plain(style)


def options_of(style: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Arguments of a layer from its look; names that no session has are left out."""
    options = {name: style[name] for name in STYLE[kind] if name in style}
    if kind == "labels" and "colormap" in options:
        options["colormap"] = label_colormap(options["colormap"])
    return options


def label_colormap(values: Mapping[str, Any]) -> CyclicLabelColormap:
    """Make the cyclic colormap that `style_of` took apart."""
    from napari.utils.colormaps import CyclicLabelColormap

    return CyclicLabelColormap(**{name: values[name] for name in _LABEL_COLOURS})


def _name_or_colours(colormap: Mapping[str, Any]) -> str | dict[str, Any]:
    """The name of one that napari knows; the colours of any other, of which a name says nothing."""
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    known: Colormap | None = AVAILABLE_COLORMAPS.get(colormap["name"])
    if known is not None and plain(known.dict()) == plain(colormap):
        return colormap["name"]
    return dict(colormap)
