"""Synthetic macular OCT with exactly known truth, for the demonstration, tests and training.

A volume is a scene of smooth surfaces over (z, x) that is rendered B-scan by
B-scan; :func:`synthetic_bscan` renders a scene of one line in a random style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_claps.errors import InputError
from napari_claps.synthetic.anatomy import FINDINGS, SURFACES, Scene, make_scene, random_surface
from napari_claps.synthetic.texture import FLUID, Style, layer_map, random_style, render
from napari_claps.types import Modality, RetinalImage, SpacingSource

BANDS = ("retina", "rpe_bm_complex")
"""Targets that are in every truth."""

_RPE_HALF = 0.5
"""Part of the pigment epithelium that annotators count to a druse."""


@dataclass(frozen=True, eq=False)
class SyntheticOCT:
    """A synthetic volume with its truth.

    Parameters
    ----------
    image : RetinalImage
        (z, y, x) uint8 OCT volume with spacing.
    truth : mapping of target id to ndarray
        (z, y, x) uint16 instance numbers, 0 = background. `retina` is the
        neurosensory retina with its cysts and without what lies under it;
        `rpe_bm_complex` reaches from the pigment epithelium through drusen to
        Bruch's membrane.
    layers : mapping of surface name to ndarray
        (z, x) depth in pixels of the surfaces `ilm` ... `bm`.
    """

    image: RetinalImage
    truth: Mapping[str, np.ndarray]
    layers: Mapping[str, np.ndarray]


def synthetic_oct(*, shape: tuple[int, int, int] = (24, 384, 512),
                  spacing: tuple[float, float, float] = (0.24, 0.00387, 0.0115), seed: int = 0,
                  findings: Sequence[str] = ("drusen", "intraretinal_fluid", "subretinal_fluid"),
                  laterality: str = "R") -> SyntheticOCT:
    """Make a synthetic macular OCT volume.

    Parameters
    ----------
    shape : tuple of int
        B-scans, depth and A-scans.
    spacing : tuple of float
        Millimetres along z, y and x.
    seed : int
        The same seed gives the same volume.
    findings : sequence of str
        What the eye has, from `FINDINGS`.
    laterality : {"R", "L"}

    Returns
    -------
    SyntheticOCT

    Raises
    ------
    InputError
        If a finding is unknown, or the depth shown is too little for a retina.
    """
    _check(findings, shape[1:], spacing[1])
    rng = np.random.default_rng(seed)
    z = (np.arange(shape[0]) - (shape[0] - 1) / 2) * spacing[0]
    x = (np.arange(shape[2]) - (shape[2] - 1) / 2) * spacing[2]
    fovea = (rng.normal(0, 0.2), rng.normal(0, 0.2))
    scene = make_scene(rng, z, x, findings, fovea=fovea, laterality=laterality)
    motion = np.rint(rng.normal(0, 1.0, len(z)) + 2 * random_surface(rng, z, x[:1], 0.8, 5)[:, 0]).astype(int)
    um = spacing[1] * 1000
    bm = _posture(rng, scene, shape[1], um, gentle=True) / um
    style = random_style(rng, wild=False)
    image = np.empty(shape, np.uint8)
    masks = {name: np.zeros(shape, bool) for name in (*BANDS, *findings)}
    streams = rng.spawn(len(z))
    for k, stream in enumerate(streams):
        image[k], found = _bscan(stream, scene, k, bm[k], shape[1:], (um, spacing[2] * 1000), style, motion[k])
        for name in masks:
            masks[name][k] = found[name]
    truth = {name: _instances(mask, motion, band=name in BANDS) for name, mask in masks.items()}
    layers = {name: scene.depth[i] / um + bm + motion[:, None] for i, name in enumerate(SURFACES[:14])}
    picture = RetinalImage(image, modality=Modality.OCT, spacing=tuple(spacing), spacing_source=SpacingSource.FILE,
                           laterality=laterality, source=f"synthetic-oct-{seed}", metadata={"synthetic": True})
    return SyntheticOCT(picture, truth, layers)


def synthetic_bscan(rng: np.random.Generator, *, shape: tuple[int, int] = (384, 512),
                    findings: Sequence[str] | None = None, spacing: tuple[float, float] | None = None,
                    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Make one synthetic B-scan in a random style.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
        Depth and A-scans.
    findings : sequence of str, optional
        What the eye has, from `FINDINGS`; the scan may miss it. At random when not given.
    spacing : tuple of float, optional
        Millimetres along y and x; at random when not given.

    Returns
    -------
    image : ndarray
        (y, x) uint8.
    truth : dict of target id to ndarray
        (y, x) bool for `retina`, `rpe_bm_complex` and every finding that can be asked for.
    """
    if findings is None:
        chance = dict(zip(FINDINGS, (0.55, 0.45, 0.35, 0.12, 0.12), strict=True))
        findings = [name for name, p in chance.items() if rng.random() < p]
    if spacing is None:
        dy = min(0.00387 * rng.uniform(0.8, 1.6), 0.9 / shape[0] * rng.uniform(1, 3))
        spacing = (max(dy, 0.62 / shape[0]), rng.uniform(3.0, 9.0) / shape[1])
    _check(findings, shape, spacing[0])
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * spacing[1]
    fovea = (rng.normal(0, 0.45), rng.normal(0, 0.25) * float(np.ptp(x)))
    scene = make_scene(rng, np.zeros(1), x, findings, fovea=fovea, laterality="R" if rng.random() < 0.5 else "L")
    um = spacing[0] * 1000
    bm = _posture(rng, scene, shape[0], um, gentle=False) / um
    image, truth = _bscan(rng, scene, 0, bm[0], shape, (um, spacing[1] * 1000), random_style(rng), 0)
    return image, truth


def demo_volume(seed: int = 7) -> SyntheticOCT:
    """The volume of the demonstration: 24 B-scans with drusen, intraretinal and subretinal fluid."""
    return synthetic_oct(seed=seed)


def _check(findings: Sequence[str], plane: tuple[int, int], dy: float) -> None:
    unknown = [f for f in findings if f not in FINDINGS]
    if unknown:
        raise InputError(f"The synthetic OCT has no {unknown[0]!r}. It can show: {', '.join(FINDINGS)}.")
    if plane[0] * dy < 0.45 or plane[1] < 16:
        raise InputError(f"{plane[0]} pixels of {dy * 1000:.2f} um are {plane[0] * dy:.2f} mm of depth; a retina needs "
                         "at least 0.45 mm, and 16 A-scans. Give a larger shape or spacing.")


def _posture(rng: np.random.Generator, scene: Scene, height: int, um: float, *, gentle: bool) -> np.ndarray:
    """Depth (z, x) of Bruch's membrane in micrometres: tilt, curvature and place in the picture."""
    z, x = scene.z[:, None], scene.x[None]
    calm = 0.4 if gentle else 1.0
    base = (rng.normal(0, 70) * calm * x + rng.normal(0, 30) * calm * z + rng.normal(-7, 9) * (x**2 + z**2)
            + rng.uniform(0, 8) * random_surface(rng, scene.z, scene.x, 1.0, 6))
    ilm = scene.surface("ilm")
    margin = 10 * um
    room = height * um - 2 * margin + float(ilm.min())
    base *= min(1.0, max(0.0, 0.9 * room) / max(float(np.ptp(base)), 1e-6))
    top = float((base + ilm).min())
    low, high = margin - top, height * um - margin - float(base.max())
    if high <= low:  # a very thick retina in a shallow picture: keep Bruch's membrane, lose vitreous
        return base + high
    return base + low + (high - low) * (rng.uniform(0.35, 0.55) if gentle else rng.beta(1.3, 1.3))


def _bscan(rng: np.random.Generator, scene: Scene, k: int, bm: np.ndarray, shape: tuple[int, int],
           pixel_um: tuple[float, float], style: Style, shift: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Render slice `k`; all depths in pixels are moved by `shift` (axial motion of the eye)."""
    um = pixel_um[0]
    bm = bm + shift
    surfaces = scene.depth[:, k] / um + bm
    layers = layer_map(surfaces, shape[0])
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    cyst = np.zeros(shape, bool)
    for c in scene.cysts:
        columns = np.flatnonzero(c.bottom[k] > c.top[k])
        if columns.size:
            at = slice(columns[0], columns[-1] + 1)
            top, bottom = c.top[k, at] / um + bm[at], c.bottom[k, at] / um + bm[at]
            cyst[:, at] |= (y >= top) & (y < bottom)
    truth = _truth(scene, k, layers, surfaces, cyst)
    layers[cyst] = FLUID
    dots = _dots(rng, scene, k, surfaces, pixel_um[1])
    gap = scene.sub_retina[k]
    bright = np.where(gap == 1 + FINDINGS.index("shrm"), 0.72, 0.0)
    image = render(rng, style, layers, bm, material=scene.material[k], bright_gap=bright,
                   lift=-scene.surface("rpe_bottom")[k], shadow=scene.shadow[k], dots=dots, pixel_um=pixel_um)
    return image, truth


def _truth(scene: Scene, k: int, layers: np.ndarray, surfaces: np.ndarray, cyst: np.ndarray) -> dict[str, np.ndarray]:
    rpe, end, bm = (SURFACES.index(name) for name in ("rpe", "photoreceptor_end", "bm"))
    y = np.arange(layers.shape[0], dtype=np.float32)[:, None]
    under = (y >= surfaces[rpe] + _RPE_HALF * (surfaces[rpe + 1] - surfaces[rpe])) & (layers <= bm)
    between = layers == end + 1
    out = {
        "retina": (layers >= 1) & (layers <= end),
        "rpe_bm_complex": (layers > rpe) & (layers <= bm + 1),
        "intraretinal_fluid": cyst,
    }
    for i, name in enumerate(FINDINGS):
        if name in ("drusen", "pigment_epithelial_detachment"):
            out[name] = under & (scene.sub_rpe[k] == i + 1)
        elif name in ("subretinal_fluid", "shrm"):
            out[name] = between & (scene.sub_retina[k] == i + 1)
    return out


def _dots(rng: np.random.Generator, scene: Scene, k: int, surfaces: np.ndarray, um_x: float) -> np.ndarray:
    """Bright dots: cut vessels in the inner retina, and foci of lipid in it."""
    rows = []
    for path, radius in scene.vessels:
        column = (path[k] - scene.x[0]) / (um_x / 1000)
        if 0 <= column < surfaces.shape[1]:
            rows.append((surfaces[1, int(column)] + 2, column, max(1.2, radius * 600 / um_x), rng.uniform(0.1, 0.3)))
    for _ in range(rng.poisson(14 if scene.cysts else 3)):
        column = int(rng.integers(surfaces.shape[1]))
        top, bottom = surfaces[2, column], surfaces[6, column]
        rows.append((rng.uniform(top, bottom), column, rng.uniform(0.8, 1.8), rng.uniform(0.15, 0.45)))
    return np.array(rows, float).reshape(-1, 4)


def _instances(mask: np.ndarray, motion: np.ndarray, *, band: bool) -> np.ndarray:
    """Number the 3-D objects of a mask (z, y, x), with the axial motion between B-scans taken out."""
    if band:
        return mask.astype(np.uint16)
    still = np.stack([np.roll(m, -s, 0) for m, s in zip(mask, motion, strict=True)])
    labels, _ = ndimage.label(still, np.ones((3, 3, 3), int))
    return np.stack([np.roll(m, s, 0) for m, s in zip(labels.astype(np.uint16), motion, strict=True)])
