"""Import the parts of groundingdino that are used, without its side effects.

groundingdino imports OpenCV and matplotlib for drawing functions that are not
used here. The OpenCV of PyPI needs system libraries of a desktop (libGL), which
a server lacks, and points Qt at plugins of its own through environment
variables: a napari started afterwards would load the wrong ones and crash. So
the module that draws is replaced by an empty one while groundingdino is
imported. It also uses names that timm and torch have deprecated, and says so;
these warnings are silenced for that package alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_DRAWING = "groundingdino.util.visualizer"


@contextmanager
def without_drawing() -> Iterator[None]:
    """Let the import of groundingdino's drawing module find an empty one, unless the real one is there."""
    if _DRAWING in sys.modules:
        yield
        return
    empty = ModuleType(_DRAWING)
    empty.COCOVisualizer = None  # type: ignore[attr-defined]
    sys.modules[_DRAWING] = empty
    try:
        yield
    finally:
        del sys.modules[_DRAWING]


with without_drawing(), warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*timm.models", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import PositionEmbeddingSineHW
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.models.GroundingDINO.bertwarper import (
        BertModelWarper,
        generate_masks_with_special_tokens_and_transfer_map,
    )
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from groundingdino.models.GroundingDINO.transformer import Transformer
    from groundingdino.models.GroundingDINO.utils import ContrastiveEmbed, get_sine_pos_embed
    from groundingdino.util import get_tokenlizer
    from groundingdino.util.misc import NestedTensor, inverse_sigmoid

# Each decoder layer asks for `torch.cuda.amp.autocast`; the warning names that module.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"groundingdino\.")

__all__ = [
    "BertModelWarper",
    "ContrastiveEmbed",
    "GroundingDINO",
    "Joiner",
    "NestedTensor",
    "PositionEmbeddingSineHW",
    "SwinTransformer",
    "Transformer",
    "generate_masks_with_special_tokens_and_transfer_map",
    "get_sine_pos_embed",
    "get_tokenlizer",
    "inverse_sigmoid",
    "without_drawing",
]
