"""Augmentation of batches of views, as tensors."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional as F

GROUND = 24
"""Pixels over which the background is averaged: wider than a vessel."""


def augment_photometry(views: Tensor, rng: random.Random, strength: float = 1.0) -> Tensor:
    """Vary colour, contrast, local contrast, gamma, sharpness and noise, a little differently for each view.

    Parameters
    ----------
    views : Tensor
        (B, 3, H, W) in [0, 1].
    rng : random.Random
    strength : float
        Factor on how much and how often the views are changed.
    """
    out = []
    for view in views:
        grey = bool((view[0] == view[1]).all() and (view[1] == view[2]).all())
        view = view.clamp(min=1e-4) ** (2.0 ** (strength * rng.uniform(-0.6, 0.6)))
        mean = view.mean()
        view = (view - mean) * (2.0 ** (strength * rng.uniform(-0.45, 0.45))) + mean + strength * rng.uniform(-0.1, 0.1)
        if not grey and rng.random() < 0.7:
            tint = [1 + strength * rng.uniform(-0.2, 0.2) for _ in range(3)]
            view = view * torch.tensor(tint, device=view.device).view(3, 1, 1)
        if not grey and rng.random() < 0.15 * strength:
            view = view[1:2].expand(3, -1, -1)
        if rng.random() < 0.4 * strength:  # pale or clear vessels and lesions, whatever the illumination
            ground = _background(view)
            view = ground + (view - ground) * 2.0 ** rng.uniform(-1.3, 0.4)
        if rng.random() < 0.25 * strength:
            view = _blur(view, rng.uniform(0.4, 1.3))
        if grey and rng.random() < 0.4 * strength:  # speckle is multiplicative
            noise = torch.randn(1, *view.shape[1:], device=view.device)
            if rng.random() < 0.5:
                noise = _blur(noise, 0.7) * 2
            view = view * (1 + rng.uniform(0.02, 0.2) * noise)
        elif rng.random() < 0.3 * strength:
            view = view + rng.uniform(0.005, 0.04) * torch.randn_like(view)
        out.append(view.clamp(0, 1))
    return torch.stack(out)


def _background(view: Tensor) -> Tensor:
    """The view (3, H, W) without anything narrower than about `GROUND` pixels."""
    coarse = F.avg_pool2d(view[None], GROUND, ceil_mode=True)
    return F.interpolate(coarse, view.shape[-2:], mode="bilinear", align_corners=False)[0]


def _blur(view: Tensor, sigma: float) -> Tensor:
    x = torch.arange(-3, 4, device=view.device, dtype=view.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    channels = view.shape[0]
    rows = F.pad(view[None], (3, 3, 3, 3), mode="reflect")
    rows = F.conv2d(rows, kernel.view(1, 1, 7, 1).expand(channels, 1, 7, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, 7).expand(channels, 1, 1, 7), groups=channels)[0]
