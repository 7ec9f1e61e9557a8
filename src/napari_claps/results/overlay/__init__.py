"""A picture of the result: the image, or a contact sheet of a volume, with masks, boxes and a legend."""

from napari_claps.results.overlay.drawing import draw_slice, label_colours
from napari_claps.results.overlay.sheet import Overlay

__all__ = ["Overlay", "draw_slice", "label_colours"]
