"""The dock widgets of the plugin."""

from napari_claps._widgets._doubts import DoubtsWidget
from napari_claps._widgets._enface import EnFaceWidget
from napari_claps._widgets._models import ModelsWidget
from napari_claps._widgets._segment import SegmentWidget

__all__ = ["DoubtsWidget", "EnFaceWidget", "ModelsWidget", "SegmentWidget"]
