"""From a network's distributions to surfaces: ordered heights, how sure they are, and where none can be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.layers.network import SurfaceLogits, moments, ordered_marginals
from training.layers.scans import standardise

ROWS, SCANS = (176, 640), (480, 1024)
"""Rows and A-scans that a B-scan keeps of its own; shorter and longer ones are resampled to the nearest of these."""


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Surfaces of one B-scan.

    Parameters
    ----------
    heights : ndarray
        (boundary, x) float32, rows of pixel centres, y down; NaN where the boundary is not visible. Never crossing.
    std : ndarray
        (boundary, x) float32 standard deviation in rows, of the network's distribution with the order known.
    visible : ndarray
        (boundary, x) float32 probability that the boundary can be seen.
    """

    heights: np.ndarray
    std: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Decoding:
    """How heights are made of distributions.

    Parameters
    ----------
    least_visible : float
        Probability below which the answer is unknown.
    largest_std : float
        Standard deviation, in rows of the working scale, above which it is unknown too.
    sharpen : float
        Exponent of the distributions: 1 gives their mean, more goes towards the most likely path.
    reach : int
        How many rows per column a surface may move for `smooth_columns`; 0 leaves columns to themselves.
    """

    least_visible: float = 0.5
    largest_std: float = 12.0
    sharpen: float = 1.0
    reach: int = 8


DEFAULT = Decoding()


@torch.no_grad()
def look(net: nn.Module, image: np.ndarray, *, mirrored: bool = False) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Distributions of a B-scan at the working scale.

    Parameters
    ----------
    net : Module
        `SurfaceUNet` or another that answers with `SurfaceLogits`; in evaluation mode.
    image : ndarray
        (y, x) uint8.
    mirrored : bool
        Whether the mean of the answer and that of the mirrored picture is given.

    Returns
    -------
    depth : Tensor
        (K, H, W) log probabilities over the rows.
    visible : Tensor
        (K, W) probabilities.
    shape : tuple of int
        Rows and A-scans of the working scale; H and W are these, the latter divided by the A-scans of a column.
    """
    rows, scans = (int(np.clip(n, *limits)) for n, limits in zip(image.shape, (ROWS, SCANS), strict=True))
    rows, scans = rows // net.zoom, scans // net.zoom
    scans -= scans % net.column
    x = torch.from_numpy(standardise(image))[None, None]
    if x.shape[2:] != (rows, scans):
        x = F.interpolate(x, (rows, scans), mode="bilinear", align_corners=False, antialias=True)
    multiple = getattr(net, "multiple", 32)
    pad_x, pad_y = -scans % (net.column * multiple), -rows % multiple
    # Columns are repeated, so that the edge of the scan is no edge in the picture; below a scan there is nothing.
    x = F.pad(F.pad(x, (0, 0, 0, pad_y)), (0, pad_x, 0, 0), mode="replicate") if pad_x else F.pad(x, (0, 0, 0, pad_y))
    looks = [_answer(net, x, rows, scans)]
    if mirrored:
        looks.append(tuple(t.flip(-1) for t in _answer(net, _mirror(x, scans), rows, scans)))
    depth = torch.stack([d for d, _ in looks]).mean(0).clamp(min=1e-12).log()
    return depth, torch.stack([v for _, v in looks]).mean(0), (rows, scans)


def _mirror(x: Tensor, scans: int) -> Tensor:
    turned = x[..., :scans].flip(-1)
    pad = x.shape[-1] - scans
    return F.pad(turned, (0, pad, 0, 0), mode="replicate") if pad else turned


def _answer(net: nn.Module, x: Tensor, rows: int, scans: int) -> tuple[Tensor, Tensor]:
    out: SurfaceLogits = net(x)
    depth = out.depth[0, :, :rows, :scans // net.column].float().softmax(1)
    return depth, out.visible[0, :, :scans // net.column].float().sigmoid()


def decode(depth: Tensor, visible: Tensor, shape: tuple[int, int], size: tuple[int, int],
           how: Decoding = DEFAULT) -> Surfaces:
    """Surfaces in the pixels of a picture of `size`, from what `look` gave at the working scale `shape`."""
    visible = supported(visible)
    log = depth * how.sharpen
    if how.reach:
        log = smooth_columns(log.softmax(-2), how.reach).log()
    mean, std = moments(ordered_marginals(log, visible))
    unknown = (visible < how.least_visible) | (std > how.largest_std)
    step = size[0] / shape[0]
    heights = (mean.numpy() + 0.5) * step - 0.5
    at = (np.arange(size[1]) + 0.5) * depth.shape[2] / size[1] - 0.5
    return Surfaces(*(at_scans(a, at) for a in (np.where(unknown.numpy(), np.nan, heights), std.numpy() * step,
                                                 visible.numpy())))


def supported(visible: Tensor) -> Tensor:
    """Probabilities (K, W) of being visible, none above both of its neighbours: one boundary alone is no retina."""
    beside = F.pad(visible, (0, 0, 1, 1))
    return torch.minimum(visible, torch.maximum(beside[:-2], beside[2:]))


def at_scans(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of (boundary, column) at the columns `at`; beside an unknown column the other one counts."""
    low = np.clip(np.floor(at).astype(int), 0, values.shape[1] - 1)
    high = np.minimum(low + 1, values.shape[1] - 1)
    part = np.clip(at - low, 0, 1)
    a, b = values[:, low], values[:, high]
    mixed = (1 - part) * a + part * b
    return np.where(np.isnan(mixed), np.where(part < 0.5, a, b), mixed).astype(np.float32)


def smooth_columns(p: Tensor, reach: int, *, jump: float = 0.02) -> Tensor:
    """Marginals of a chain over the columns: surfaces move little from one A-scan to the next.

    The sum-product form of the shortest path that graph searches look for (forward-backward algorithm).

    Parameters
    ----------
    p : Tensor
        (K, H, W) probabilities over rows.
    reach : int
        Rows that a step of one column may go, with weights falling off linearly.
    jump : float
        Probability of starting anew in any row, at a tear or a detachment.
    """
    taps = 1 - torch.arange(-reach, reach + 1).abs() / (reach + 1)
    taps = (taps / taps.sum()).to(p.dtype)[None, None].expand(p.shape[0], 1, -1).contiguous()
    rows, columns = p.shape[1:]

    def sweep(order: range) -> list[Tensor]:
        state, out = torch.full(p.shape[:2], 1 / rows), [torch.empty(0)] * columns
        for x in order:
            out[x] = state
            own = state * p[..., x]
            own = own / own.sum(1, keepdim=True).clamp(min=1e-30)
            moved = F.conv1d(own[None], taps, padding=reach, groups=p.shape[0])[0]
            state = (1 - jump) * moved + jump / rows
        return out

    ahead, back = sweep(range(columns)), sweep(range(columns - 1, -1, -1))
    joint = torch.stack(ahead, -1) * torch.stack(back, -1) * p
    return (joint / joint.sum(1, keepdim=True).clamp(min=1e-30)).clamp(min=1e-12)
