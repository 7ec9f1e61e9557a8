"""Weights for the pixel features from what a box or a point shows, for prompts that come without a text."""

from __future__ import annotations

import torch
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torchvision.ops import roi_align

_SCALES = (0.5, 1.0, 2.0)
"""Sides of the regions that are compared, of the side of the box: its middle, all of it, and with its surroundings."""


class RegionWeights(nn.Module):
    """A hypernetwork on the mean pixel features in the middle of a box, in the box, and around it.

    What a text says of a target, a box can only show: its inside differs from its surroundings. The last layer
    begins with zeros, so that a mask head trained without this part starts as it was.

    Parameters
    ----------
    channels : int
        Of the pixel features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = MLP(len(_SCALES) * channels, 2 * channels, channels + 1, 3)
        nn.init.zeros_(self.layers.layers[-1].weight)
        nn.init.zeros_(self.layers.layers[-1].bias)

    def forward(self, pixels: Tensor, view: Tensor, regions: Tensor) -> Tensor:
        """Weights (P, p + 1) for the pixel features and 1.

        Parameters
        ----------
        pixels : Tensor
            (B, p, h, w) pixel features.
        view : Tensor
            (P,) index of each region's view.
        regions : Tensor
            (P, 4) x0, y0, x1, y1 in pixels of `pixels`.
        """
        centre, half = (regions[:, :2] + regions[:, 2:]) / 2, (regions[:, 2:] - regions[:, :2]).clamp(min=1) / 2
        size = torch.tensor([pixels.shape[-1], pixels.shape[-2]], device=pixels.device)
        means = []
        for scale in _SCALES:
            low, high = (centre - scale * half).clamp(min=0), torch.minimum(centre + scale * half, size)
            boxes = torch.cat([view[:, None].to(pixels.dtype), low, high], dim=1)
            means.append(roi_align(pixels, boxes, output_size=1, aligned=True).flatten(1))
        return self.layers(torch.cat(means, dim=1))
