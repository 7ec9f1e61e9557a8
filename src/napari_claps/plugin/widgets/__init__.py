"""The dock widgets of the plugin."""

from napari_claps.plugin.widgets.doubts import DoubtsWidget
from napari_claps.plugin.widgets.enface import EnFaceWidget
from napari_claps.plugin.widgets.models import ModelsWidget
from napari_claps.plugin.widgets.segment import SegmentWidget

__all__ = ["DoubtsWidget", "EnFaceWidget", "ModelsWidget", "SegmentWidget"]
