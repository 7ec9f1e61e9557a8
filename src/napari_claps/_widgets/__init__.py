"""The dock widgets of the plugin."""

from napari_claps._widgets._segment import SegmentWidget

__all__ = ["SegmentWidget"]
