"""The layers that a run fills plane by plane, empty at first: one function for each kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import CyclicLabelColormap

from napari_claps.plugin.layers import UNCERTAINTY_STYLE, mask_colormap, target_colour
from napari_claps.words.appearance import shown_name

WHITE = {"outer": 0.0, "inner": 0.7}
"""Share of white in the outlines."""


def mask_layer(label: str, shape: tuple[int, ...], *, suffix: str, **options: Any) -> Labels:
    """Instance numbers of a target.

    Parameters
    ----------
    label : str
        Target id or free text.
    shape : tuple of int
        (y, x) or (z, y, x).
    suffix : str
        End of the name.
    **options
        Of the layer: metadata, place, features.
    """
    return Labels(np.zeros(shape, np.uint16), name=f"{shown_name(label)}{suffix}", opacity=0.6,
                  colormap=mask_colormap(label), **options)


def band_layer(label: str, which: str, shape: tuple[int, ...], *, suffix: str, **options: Any) -> Labels:
    """The inner or outer mask of a target, 0 or 1, drawn as an outline so that it hides neither mask nor image.

    The outer one lies on the image and has the colour of the target, the inner one lies on the mask and is paler.
    """
    colour = (1 - WHITE[which]) * np.array(target_colour(label)) + WHITE[which]
    name = f"{shown_name(label)} {which}"
    colours = np.array([(0, 0, 0, 0), (*colour, 1)], np.float32)
    layer = Labels(np.zeros(shape, np.uint8), name=f"{name}{suffix}", opacity=0.7,
                   colormap=CyclicLabelColormap(colors=colours, name=name, display_name=name), **options)
    layer.contour = 1
    return layer


def uncertainty_layer(label: str, shape: tuple[int, ...], *, suffix: str, **options: Any) -> Image:
    """Entropy per pixel in bits, NaN in slices that are not done.

    Half precision is finer than any estimate of it, and no larger than the masks.
    """
    return Image(np.full(shape, np.nan, np.float16), name=f"uncertainty {shown_name(label)}{suffix}",
                 **UNCERTAINTY_STYLE, **options)
