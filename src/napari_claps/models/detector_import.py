"""Import the parts of groundingdino that are used, without its side effects.

groundingdino imports OpenCV for its drawing functions, and the OpenCV of PyPI
points Qt at plugins of its own through environment variables: a napari started
afterwards, or a process it starts, would load the wrong ones and crash. It also
uses names that timm and torch have deprecated, and says so at every import and
every forward pass. Here the variables are put back and the known warnings are
silenced, for that package alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_SET_BY_OPENCV = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR", "LD_LIBRARY_PATH")


@contextmanager
def kept_environment(names: tuple[str, ...] = _SET_BY_OPENCV) -> Iterator[None]:
    """Put these environment variables back as they were before the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


with kept_environment(), warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*timm.models", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    from groundingdino.models.GroundingDINO.backbone.position_encoding import PositionEmbeddingSineHW
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
    "NestedTensor",
    "PositionEmbeddingSineHW",
    "Transformer",
    "generate_masks_with_special_tokens_and_transfer_map",
    "get_sine_pos_embed",
    "get_tokenlizer",
    "inverse_sigmoid",
    "kept_environment",
]
