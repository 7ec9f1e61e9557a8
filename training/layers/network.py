"""Retinal layers as surfaces: a network that gives each boundary a distribution over depth in every A-scan.

A column's logits become a probability for each row (softmax over y), as in He et al. (Medical Image Analysis 68,
2021, arXiv 1905.05400). The order of the boundaries is not repaired afterwards by a ReLU, as there, but part of the
model: `ordered_marginals` is the exact posterior of heights that may not cross, so its means never do.
Whether a boundary can be seen at all is a probability of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class SurfaceLogits:
    """Answer of a surface network for B views of H rows and W columns, each of a few A-scans.

    Parameters
    ----------
    depth : Tensor
        (B, K, H, W) logits of the boundaries over the rows; softmax over y.
    visible : Tensor
        (B, K, W) logits of a boundary being visible in its column.
    above : Tensor, optional
        (B, K, H, W) logits of a pixel lying above the boundary, toward the vitreous.
    classes : Tensor, optional
        (B, K + 1, H, W) logits of vitreous, the layers and what lies below; for comparison.
    """

    depth: Tensor
    visible: Tensor
    above: Tensor | None = None
    classes: Tensor | None = None


class Double(nn.Sequential):
    """Two 3x3 convolutions with group normalisation, which knows each scan's own contrast and no other's."""

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for n in (channels, width):
            layers += [nn.Conv2d(n, width, 3, padding=1, bias=False), nn.GroupNorm(4, width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class ColumnContext(nn.Module):
    """Tells each place the strongest of what lies above and below it in its column, however far away.

    Vitreous and deep choroid are both dark: only what lies on either side tells them apart.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(3 * width, width, 1, bias=False), nn.GroupNorm(4, width),
                                 nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        above = x.cummax(2).values
        below = x.flip(2).cummax(2).values.flip(2)
        return x + self.mix(torch.cat([x, above, below], 1))


class SurfaceHead(nn.Module):
    """From features at full depth to `SurfaceLogits`.

    Whether a pixel lies above boundary k is a question that each pixel answers for itself, as in segmentation. The
    boundary's distribution is the posterior of the one change point in its column: its logit in row y is the sum of
    the answers "above" over all rows before y, less the same sum over the rows from y (up to a constant), plus what the
    pixels at y say of an edge. So a bright speck in the vitreous weighs as much as one pixel, not as one boundary.

    Parameters
    ----------
    channels : int
        Of the features (B, channels, H, W).
    boundaries : int
        K.
    regions : bool
        Whether pixels vote; otherwise the edge alone decides, as in He et al.
    classes : bool
        Whether layers are also classified pixel by pixel.
    """

    largest = 4.0
    """What one pixel can say at most, as a logit."""

    def __init__(self, channels: int, boundaries: int, *, regions: bool = False, classes: bool = False) -> None:
        super().__init__()
        self.edge = nn.Conv2d(channels, boundaries, 1)
        self.above = nn.Conv2d(channels, boundaries, 1) if regions else None
        # Neighbouring pixels say much the same: their sum counts less than that of independent ones.
        self.weight = nn.Parameter(torch.full((boundaries, 1, 1), 0.1)) if regions else None
        self.classes = nn.Conv2d(channels, boundaries + 1, 1) if classes else None
        # A column shows a boundary where some row of it looks like one, and its neighbours agree.
        self.visible = nn.Sequential(nn.Conv1d(2 * channels + 2 * boundaries, 32, 5, padding=2), nn.ReLU(),
                                     nn.Conv1d(32, boundaries, 5, padding=2))

    def forward(self, features: Tensor) -> SurfaceLogits:
        depth, above = self.edge(features), None
        if self.above is not None:
            above = self.largest * torch.tanh(self.above(features) / self.largest)
            # Votes learn from their own loss: early on, the sum is far too sure, and would teach them to say nothing.
            votes = above.float().detach()
            depth = depth.float() + self.weight * (votes.cumsum(2) - votes)
        best, total = depth.amax(2), depth.logsumexp(2)
        column = torch.cat([features.amax(2), features.mean(2), torch.tanh(best / 20), (best - total).clamp(min=-6)], 1)
        return SurfaceLogits(depth, self.visible(column), above,
                             None if self.classes is None else self.classes(features))


class SurfaceUNet(nn.Module):
    """A small U-Net of its own with a `SurfaceHead`.

    Parameters
    ----------
    widths : sequence of int
        Channels at strides 1, 2, 4, ...
    boundaries : int
    column : int
        A-scans of the input in one column of the answer: the mean of neighbours has less speckle.
    regions, classes : bool
        As of `SurfaceHead`.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64, 64), boundaries: int = 9, *, column: int = 4,
                 regions: bool = False, classes: bool = False) -> None:
        super().__init__()
        self.column, self.zoom = column, 1
        self.multiple = 2 ** (len(widths) - 1)
        inputs = [1, *widths[:-1]]
        self.down = nn.ModuleList(Double(c, w) for c, w in zip(inputs, widths, strict=True))
        self.context = nn.ModuleList(ColumnContext(w) for w in widths[-2:])
        self.up = nn.ModuleList(Double(w + below, w) for w, below in pairwise(widths))
        self.head = SurfaceHead(widths[0], boundaries, regions=regions, classes=classes)

    def forward(self, images: Tensor) -> SurfaceLogits:
        """Answer for standardised images (B, 1, H, A-scans); H and A-scans / `column` are multiples of `multiple`."""
        x = F.avg_pool2d(images, (1, self.column))
        levels = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            if number >= len(self.down) - len(self.context):
                x = self.context[number - len(self.down)](x)
            levels.append(x)
        for level, block in zip(reversed(levels[:-1]), reversed(self.up), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([level, x], 1))
        return self.head(x)


def ordered_marginals(depth: Tensor, visible: Tensor | None = None, *, floor: float = 1e-5) -> Tensor:
    """Probability of each row for each boundary, given that boundaries do not cross.

    The heights of one column are a chain: p(y) = prod_k p_k(y_k) [y_k <= y_(k+1)]. Sums to the left and right give
    its exact marginals in O(K H), the sum-product form of a shortest path.

    Parameters
    ----------
    depth : Tensor
        (..., K, H, W) logits.
    visible : Tensor, optional
        (..., K, W) probabilities; where a boundary is not visible, its column says nothing and the order alone decides.
    floor : float
        Probability shared among all rows, so that no two certain boundaries in the wrong order make zero.

    Returns
    -------
    Tensor
        (..., K, H, W), sums to 1 over H.
    """
    p = depth.float().softmax(-2)
    rows = p.shape[-2]
    share = torch.full_like(p[..., :1, :], floor)
    if visible is not None:
        share = (1 - visible.float()).clamp(floor)[..., None, :]
    p = p * (1 - share) + share / rows
    parts = p.unbind(-3)
    ahead, back = [parts[0]], [torch.ones_like(parts[-1])]
    for own in parts[1:]:
        a = own * ahead[-1].cumsum(-2)
        ahead.append(a / a.sum(-2, keepdim=True).clamp(min=1e-30))
    for own in reversed(parts[1:]):
        b = (own * back[-1]).flip(-2).cumsum(-2).flip(-2)
        back.append(b / b.amax(-2, keepdim=True).clamp(min=1e-30))
    joint = torch.stack([a * b for a, b in zip(ahead, reversed(back), strict=True)], -3)
    return joint / joint.sum(-2, keepdim=True).clamp(min=1e-30)


def moments(marginals: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (..., K, W) in rows, of probabilities (..., K, H, W)."""
    y = torch.arange(marginals.shape[-2], dtype=marginals.dtype, device=marginals.device)[:, None]
    mean = (marginals * y).sum(-2)
    variance = (marginals * (y - mean[..., None, :]).square()).sum(-2)
    return mean, variance.sqrt()
