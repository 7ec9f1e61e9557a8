"""Synthetic B-scans with exact heights of all boundaries, in looks that range further than any one device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_claps.synthetic import FINDINGS, _bscan, _posture
from napari_claps.synthetic.anatomy import SURFACES, make_scene
from napari_claps.synthetic.texture import Style, random_style
from training.layers.boundaries import NOT_VISIBLE
from training.layers.scans import LayerScan

SYNTHETIC = ("ilm", "rnfl_gcl", "ipl_inl", "inl_opl", "opl_onl", "elm_bottom", "ez_bottom", "rpe", "bm")
"""Which surface of the scene stands for each of `BOUNDARIES`: annotators begin the myoid below the membrane's line."""

_CHANCE = dict(zip(FINDINGS, (0.3, 0.2, 0.15, 0.12, 0.06), strict=True))


def synthetic_layers(rng: np.random.Generator, *, real_looks: bool = True, disc_share: float = 0.0) -> LayerScan:
    """Draw a synthetic B-scan.

    Parameters
    ----------
    rng : numpy.random.Generator
    real_looks : bool
        Whether speckle, contrast, noise and layers' brightness range as far as in real scans; otherwise the styles
        of `random_style` as they are.
    disc_share : float
        Share of circle scans around the disc, and of line scans near it, where the nerve fibre layer is thick.
    """
    shape = (int(rng.integers(360, 520)), int(rng.integers(560, 820)))
    um = rng.uniform(3.0, 5.2)
    spacing = (um / 1000, rng.uniform(5.0, 10.0) / shape[1])
    findings = [name for name, p in _CHANCE.items() if rng.random() < p]
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * spacing[1]
    fovea = (rng.normal(0, 0.45), rng.normal(0, 0.25) * float(np.ptp(x)))
    disc = rng.random() < disc_share
    if disc:
        fovea, findings = (rng.normal(0, 1), rng.choice([-1, 1]) * rng.uniform(5, 12)), []
    scene = make_scene(rng, np.zeros(1), x, findings, fovea=fovea, laterality="R" if rng.random() < 0.5 else "L")
    if disc:
        _thicken_fibres(rng, scene.depth[:, 0], x)
    bm = _posture(rng, scene, shape[0], um, gentle=False) / um
    style = random_style(rng)
    if real_looks:
        style = _real_look(rng, style)
    image, _ = _bscan(rng, scene, 0, bm[0], shape, (um, spacing[1] * 1000), style, 0)
    heights = np.stack([scene.surface(name)[0] for name in SYNTHETIC]) / um + bm[0]
    outside = (heights < -0.5) | (heights > shape[0] - 0.5)
    heights = np.where(outside, NOT_VISIBLE, heights)
    return LayerScan("synthetic", "synthetic", image, heights.astype(np.float32))


def _thicken_fibres(rng: np.random.Generator, depth: np.ndarray, x: np.ndarray) -> None:
    """Nerve fibre layer as around the disc, in place: one or two humps of up to 200 um, and little ganglion cell layer.

    `depth` is (surface, x) in um. The layers above the inner nuclear layer are drawn anew upon it.
    """
    fibres, ganglion, plexiform = (SURFACES.index(n) for n in ("rnfl_gcl", "gcl_ipl", "ipl_inl"))
    u = np.linspace(0, 1, x.size)
    humps = sum(rng.uniform(20, 110) * np.exp(-(((u - rng.uniform(0, 1)) / rng.uniform(0.06, 0.16)) ** 2))
                for _ in range(rng.integers(1, 4)))
    thickness = np.clip(rng.uniform(25, 70) + humps, 15, 210)
    thin = rng.uniform(0.35, 0.9)
    inner, middle = (thin * (depth[b] - depth[a]) for a, b in ((fibres, ganglion), (ganglion, plexiform)))
    depth[ganglion] = depth[plexiform] - middle
    depth[fibres] = depth[ganglion] - inner
    depth[0] = depth[fibres] - thickness


def _real_look(rng: np.random.Generator, style: Style) -> Style:
    """Layers differ less, or more, than in one device; strong speckle on a weak signal is common."""
    table = style.reflectivity.copy()
    tissue = table > 0.05
    mean = float(table[1:14].mean())
    contrast = rng.uniform(0.55, 1.15)
    table = np.where(tissue, mean + contrast * (table - mean) + rng.normal(0, 0.05, table.size), table)
    table[10] += rng.uniform(-0.25, 0.1)  # outer segments: as dark as the outer nuclear layer in some devices
    table[6] += rng.normal(0, 0.06)
    table = np.clip(table, 0, 1).astype(np.float32) * tissue
    return replace(style, reflectivity=table, speckle=rng.uniform(0.8, 2.6),
                   grain=(rng.uniform(0, 0.33), rng.uniform(0, 0.33)), floor=rng.uniform(0.02, 0.4),
                   signal=rng.uniform(0.6, 1.05), gamma=float(np.exp(rng.normal(0.35, 0.35))))
