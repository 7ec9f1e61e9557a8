"""The early blocks of the trunk, learnt for one modality: edges and vessel walls look different in each."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor, nn

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import ImageFeatures, RetinalClip

EARLY_BLOCKS = 4
"""Blocks of the trunk that a modality may have of its own: in EfficientNet-Lite0 the first ones of stride 16 are the
last, and all are a twelfth of its weights, so that a bundle has room for them."""


class OwnTrunk(nn.Module):
    """Stem and first `EARLY_BLOCKS` blocks of a modality's own; the late blocks are those of the shared trunk.

    They start as copies. Boxes, modality and everything else that reads the shared features keep them.

    Parameters
    ----------
    clip : RetinalClip
        Owner of the shared trunk.

    Raises
    ------
    InputError
        If the trunk is no EfficientNet of timm.
    """

    def __init__(self, clip: RetinalClip) -> None:
        super().__init__()
        trunk = clip.model.visual.trunk
        if not all(hasattr(trunk, part) for part in ("conv_stem", "bn1", "blocks")):
            raise InputError(f"own_trunks: the trunk {clip.config.trunk} is no EfficientNet, whose early blocks one "
                             "modality can have by itself. Leave own_trunks out of [segmenter].")
        self.conv_stem, self.bn1 = copy.deepcopy(trunk.conv_stem), copy.deepcopy(trunk.bn1)
        self.blocks = copy.deepcopy(trunk.blocks[:EARLY_BLOCKS])
        self.eval()

    def train(self, mode: bool = True) -> OwnTrunk:
        """Keep the statistics of batch normalisation: the few views of a training step would spoil them."""
        return super().train(False)

    def forward(self, features: ImageFeatures, clip: RetinalClip) -> ImageFeatures:
        """Features of the same views with levels of this trunk; the embedding stays that of the shared one."""
        trunk = clip.model.visual.trunk
        ends = {level["module"] for level in trunk.feature_info}
        x, levels = self.bn1(self.conv_stem(features.image)), list[Tensor]()
        for number, block in enumerate([*self.blocks, *trunk.blocks[len(self.blocks):]]):
            x = block(x)
            if f"blocks.{number}" in ends:
                levels.append(x)
        return replace(features, levels=tuple(levels), memo={})
