"""Checks of the surface network and its decoding; no real image is needed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from training.layers.augment import draw_view
from training.layers.boundaries import BOUNDARIES, LAYERS, NOT_VISIBLE, heights_from_masks, masks_from_heights
from training.layers.decode import Decoding, decode, look, smooth_columns
from training.layers.losses import surface_losses
from training.layers.network import SurfaceUNet, moments, ordered_marginals
from training.layers.synthetic import synthetic_layers

K = len(BOUNDARIES)


def test_ordered_marginals_are_those_of_all_heights_in_order() -> None:
    depth = torch.randn(3, 6, 1, generator=torch.Generator().manual_seed(0)) * 2
    p = depth.softmax(-2)[..., 0].double()
    joint = torch.zeros(6, 6, 6, dtype=torch.double)
    for a, b, c in itertools.combinations_with_replacement(range(6), 3):
        joint[a, b, c] = p[0, a] * p[1, b] * p[2, c]
    joint /= joint.sum()
    ours = ordered_marginals(depth, floor=1e-9)[..., 0]
    for k, others in enumerate([(1, 2), (0, 2), (0, 1)]):
        torch.testing.assert_close(ours[k].double(), joint.sum(others), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_heights_never_cross_whatever_the_logits(scale: float) -> None:
    depth = scale * torch.randn(K, 50, 30, generator=torch.Generator().manual_seed(1))
    mean, std = moments(ordered_marginals(depth, torch.rand(K, 30)))
    assert (mean.diff(dim=0) > -1e-3).all() and torch.isfinite(mean).all() and (std >= 0).all()


def test_a_boundary_that_is_not_visible_has_no_height() -> None:
    depth = torch.full((K, 64, 40), -20.0)
    depth[torch.arange(K), 5 + 6 * torch.arange(K)] = 0
    visible = torch.ones(K, 40)
    visible[0, 10:20] = 0.1
    surfaces = decode(depth, visible, (64, 80), (64, 80))
    assert np.isnan(surfaces.heights[0, 22:38]).all() and np.isfinite(surfaces.heights[1:]).all()
    assert np.allclose(surfaces.heights[:, 60], 5 + 6 * np.arange(K), atol=0.1)


def test_masks_and_heights_agree() -> None:
    heights = np.sort(np.random.default_rng(0).uniform(0, 50, (K, 30)), 0).astype(np.float32)
    masks = masks_from_heights(heights, 60)
    assert (sum(masks[n].astype(int) for n in LAYERS) == masks["retina"]).all()
    assert np.abs(heights_from_masks(masks) - heights).max() <= 0.5


def test_synthetic_views_are_in_order_and_give_finite_losses() -> None:
    rng = np.random.default_rng(3)
    views = [draw_view(rng, synthetic_layers(rng), (96, 128)) for _ in range(4)]
    for image, heights in views:
        seen = np.where(np.isfinite(heights), heights, np.nan)
        assert image.shape == (96, 128) and image.dtype == np.float32 and not np.isnan(heights).any()
        assert np.nanmin(np.diff(seen, axis=0), initial=0) >= -1e-3
        assert ((heights == NOT_VISIBLE) | ((heights >= -0.5) & (heights <= 95.5))).all()
    net = SurfaceUNet((8, 8, 8, 8, 8))
    out = net(torch.from_numpy(np.stack([v for v, _ in views])[:, None]))
    losses = surface_losses(out, torch.from_numpy(np.stack([h for _, h in views])))
    assert all(torch.isfinite(v) for v in losses.values()) and out.depth.shape == (4, K, 96, 32)


def test_any_size_is_answered_in_its_own_pixels() -> None:
    net = SurfaceUNet((8, 8, 8, 8, 8)).eval()
    for size in ((200, 200), (155, 502), (496, 769), (1024, 512)):
        image = np.random.default_rng(0).integers(0, 60, size, dtype=np.uint8)
        surfaces = decode(*look(net, image, mirrored=True), size, Decoding(least_visible=0, largest_std=np.inf))
        assert surfaces.heights.shape == (K, size[1]) and np.isfinite(surfaces.heights).all()
        assert (np.diff(surfaces.heights, axis=0) >= -1e-2).all()


def test_smooth_columns_bridges_a_column_without_evidence() -> None:
    p = torch.full((1, 40, 21), 1e-6)
    p[0, 12] = 1
    p[0, :, 10] = 1 / 40
    mean, _ = moments(smooth_columns(p / p.sum(1, keepdim=True), 2))
    assert abs(float(mean[0, 10]) - 12) < 0.5
