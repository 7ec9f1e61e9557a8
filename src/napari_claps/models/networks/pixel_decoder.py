"""The pixel decoder of the mask head: a U-Net decoder that runs once per view, however often the view is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import EncodedViews


@dataclass(frozen=True)
class SegmenterConfig:
    """Architecture of the mask head.

    Parameters
    ----------
    dim : int
        Width of embedding and tokens.
    widths : tuple of int
        Channels of the pixel decoder at strides 2, 4, 8, 16, 32.
    text_tokens : int
        Prompt tokens made of one text embedding.
    heads, depth, mlp : int
        Of SAM's two-way transformer.
    text_weights : bool
        Whether a text also gives weights for the pixel features directly (LSeg, arXiv 2201.03546).
    region_weights : bool
        Whether, where there is no text, what lies in the box gives them; needs `text_weights`.
    own_pixels : tuple of str
        Ids of the modalities whose views have a pixel decoder of their own; the others share one. Trunk and mask
        decoder stay common, as do all but the adapters in Rebuffi et al. (NeurIPS 2017, arXiv 1705.08045).
    own_trunks : tuple of str
        Those of them whose pixel decoder reads early blocks of the trunk that were learnt with it (`OwnTrunk`).
    """

    dim: int = 128
    widths: tuple[int, ...] = (32, 64, 96, 128, 128)
    text_tokens: int = 2
    heads: int = 4
    depth: int = 2
    mlp: int = 256
    text_weights: bool = False
    region_weights: bool = False
    own_pixels: tuple[str, ...] = ()
    own_trunks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "own_pixels", tuple(self.own_pixels))
        object.__setattr__(self, "own_trunks", tuple(self.own_trunks))
        if shared := sorted({*self.own_trunks} - {*self.own_pixels}):
            raise InputError(f"own_trunks: {', '.join(shared)} has no pixel decoder of its own to read them. Name it "
                             "in own_pixels too.")


@dataclass(frozen=True, eq=False)
class PixelMaps:
    """Output of the pixel decoder for a batch of views: (B, dim, H/16, W/16) and (B, p, H/2, W/2)."""

    embedding: Tensor
    pixels: Tensor


class Block(nn.Sequential):
    """Two 3x3 convolutions with group normalisation, which does not depend on the batch."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(8, channels),
                       nn.ReLU(inplace=True)]
        super().__init__(*layers)


class PixelDecoder(nn.Module):
    """U-Net decoder over the five levels of the trunk.

    Parameters
    ----------
    channels : sequence of int
        Channels of the trunk at strides 2 to 32.
    config : SegmenterConfig
    """

    def __init__(self, channels: Sequence[int], config: SegmenterConfig) -> None:
        super().__init__()
        widths = config.widths
        # The finest level also sees the pixels themselves (2x2 of them as 12 channels): the trunk's stem blurs.
        inputs = [channels[0] + 12, *channels[1:]]
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(inputs, widths, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(len(widths) - 1))
        self.blocks = nn.ModuleList(Block(w) for w in widths)
        self.neck = nn.Conv2d(widths[3], config.dim, 1)

    def forward(self, features: EncodedViews) -> PixelMaps:
        """Run from coarse to fine."""
        levels = list(features.levels)
        levels[0] = torch.cat([levels[0], F.pixel_unshuffle(features.image, 2)], dim=1)
        x = self.blocks[-1](self.lateral[-1](levels[-1]))
        embedding = x
        for i in range(len(levels) - 2, -1, -1):
            up = F.interpolate(self.reduce[i](x), levels[i].shape[-2:], mode="bilinear", align_corners=False)
            x = self.blocks[i](up + self.lateral[i](levels[i]))
            if i == 3:
                embedding = self.neck(x)
        return PixelMaps(embedding, x)
