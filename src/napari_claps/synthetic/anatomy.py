"""The shape of a synthetic macula: smooth surfaces over (z, x), and what is wrong with them.

Everything is a height field: layers, drusen, fluid, and even cysts, which are
intervals of depth per A-scan. That makes a scene cheap, resolution free, and
its truth exact. Lengths are in mm along z and x, and in micrometres in depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

SURFACES = ("ilm", "rnfl_gcl", "gcl_ipl", "ipl_inl", "inl_opl", "opl_onl", "elm", "elm_bottom", "ez_top", "ez_bottom",
            "photoreceptor_end", "rpe", "rpe_bottom", "bm", "bm_bottom", "choroid_bottom")
"""Names of the surfaces from the vitreous down; surface k is the upper edge of layer k + 1."""

FINDINGS = ("drusen", "intraretinal_fluid", "subretinal_fluid", "pigment_epithelial_detachment", "shrm")
"""Targets that can be asked for."""


@dataclass(frozen=True, eq=False)
class Cyst:
    """Intraretinal cyst: `top` and `bottom` depth (z, x) in micrometres; there is none where they meet."""

    top: np.ndarray
    bottom: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """Geometry of a macula on a (z, x) grid.

    `z` and `x` are in mm; `depth` is (surface, z, x) in micrometres below Bruch's membrane (nearly all of it negative).
    `sub_rpe` and `sub_retina` name what lies in a column between Bruch's membrane and the pigment epithelium, and
    between that and the photoreceptors: 0 nothing, otherwise 1 + the index in `FINDINGS`.
    `material` is the brightness in [0, 1] of what lies under the pigment epithelium, `shadow` in [0, 1] the light lost
    to retinal vessels. `vessels` holds, for each, the x of its centre per z (NaN where it is not) and its radius in mm.
    """

    z: np.ndarray
    x: np.ndarray
    depth: np.ndarray
    sub_rpe: np.ndarray
    sub_retina: np.ndarray
    material: np.ndarray
    shadow: np.ndarray
    vessels: list[tuple[np.ndarray, float]]
    cysts: list[Cyst] = field(default_factory=list)

    def surface(self, name: str) -> np.ndarray:
        """Depth (z, x) of a surface in micrometres."""
        return self.depth[SURFACES.index(name)]


def random_surface(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, length: float,
                   n_waves: int = 10) -> np.ndarray:
    """Smooth Gaussian-like random field (z, x) of unit variance with features of about `length` mm."""
    wave = rng.normal(0, 1 / length, (n_waves, 2))
    phase = rng.uniform(0, 2 * np.pi, n_waves)
    out = np.zeros((len(z), len(x)))
    for (kz, kx), p in zip(wave, phase, strict=True):
        out += np.cos((kz * z)[:, None] + (kx * x)[None] + p)
    return out * np.sqrt(2 / n_waves)


def _dome(scene_z: np.ndarray, scene_x: np.ndarray, rng: np.random.Generator, centre: tuple[float, float],
          radius: float, power: float) -> np.ndarray:
    """Dome (z, x) of height 1 and compact support, slightly out of round."""
    dz, dx = scene_z[:, None] - centre[0], scene_x[None] - centre[1]
    angle = np.arctan2(dz, dx)
    stretch = rng.uniform(0.75, 1.3)
    r = radius * (1 + 0.1 * np.cos(2 * angle + rng.uniform(0, 6.3)) + 0.06 * np.cos(3 * angle + rng.uniform(0, 6.3)))
    rho2 = ((dx * stretch) ** 2 + (dz / stretch) ** 2) / r**2
    return np.clip(1 - rho2, 0, None) ** power


def make_scene(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, findings: Sequence[str] = (), *,
               fovea: tuple[float, float] = (0.0, 0.0), laterality: str = "R") -> Scene:
    """Draw a macula at random on the grid `z`, `x` (mm), with the findings asked for.

    `fovea` is its (z, x) in mm. In a right eye (``"R"``) nasal, where the nerve
    fibre layer is thick, is towards larger x.
    """
    inner, outer = _healthy_thickness(rng, z, x, fovea, 1.0 if laterality == "R" else -1.0)
    # -- what lies under the pigment epithelium
    sub_rpe = np.zeros((len(z), len(x)), np.uint8)
    lift = np.abs(random_surface(rng, z, x, 0.15)) * rng.uniform(0, 2.5)
    material = np.full(lift.shape, 0.5)
    if "drusen" in findings:
        for _ in range(rng.integers(3, 12) if len(z) == 1 else rng.integers(10, 22)):
            big = rng.random() < 0.3
            radius = rng.uniform(0.15, 0.42) if big else rng.uniform(0.05, 0.16)
            height = rng.uniform(45, 140) if big else rng.uniform(18, 60)
            bump = height * _dome(z, x, rng, _place(rng, z, x, 0.4 * radius), radius, rng.uniform(0.8, 1.6))
            higher = bump > lift
            lift[higher] = bump[higher]
            material[higher] = rng.uniform(0.34, 0.68)
            sub_rpe[bump >= 9] = 1 + FINDINGS.index("drusen")
    if "pigment_epithelial_detachment" in findings:
        centre = _near(rng, z, x, fovea, 1.2)
        bump = rng.uniform(100, 320) * _dome(z, x, rng, centre, rng.uniform(0.4, 1.1), rng.uniform(0.5, 1.0))
        higher = bump > lift
        lift[higher] = bump[higher]
        material[higher] = rng.choice([rng.uniform(0.1, 0.2), rng.uniform(0.3, 0.5)])
        sub_rpe[bump >= 9] = 1 + FINDINGS.index("pigment_epithelial_detachment")
    # -- what lies between pigment epithelium and photoreceptors
    sub_retina = np.zeros_like(sub_rpe)
    gap = np.zeros_like(lift)
    for name, low, high, radii in (("subretinal_fluid", 30, 190, (0.3, 1.4)), ("shrm", 40, 160, (0.3, 0.9))):
        if name not in findings:
            continue
        for _ in range(rng.integers(1, 3)):
            height = low * (high / low) ** rng.random()
            centre = _near(rng, z, x, fovea, 0.9)
            bump = height * _dome(z, x, rng, centre, rng.uniform(*radii), rng.uniform(0.6, 1.3))
            # fluid lies in the hollows between drusen rather than on them
            bump = np.clip(bump - 0.5 * lift * (bump > 0), 0, None)
            sub_retina[(bump >= 6) & (bump > gap)] = 1 + FINDINGS.index(name)
            gap = np.maximum(gap, bump)
    # -- swelling by cysts, one or two oedematous places
    clusters = []
    if "intraretinal_fluid" in findings:
        for _ in range(rng.integers(1, 3)):
            centre, reach = _near(rng, z, x, fovea, 0.6), rng.uniform(0.35, 0.9)
            fall = np.exp(-((z[:, None] - centre[0]) ** 2 + (x[None] - centre[1]) ** 2) / (2 * reach**2))
            inner[3] += rng.uniform(15, 70) * fall
            inner[5] += rng.uniform(20, 190) * fall
            inner[2] += rng.uniform(0, 20) * fall
            clusters.append((centre, reach))
    depth = _stack(rng, z, x, inner, outer, lift, gap)
    cysts = [c for centre, reach in clusters for c in _cysts(rng, z, x, depth, centre, reach)]
    shadow, vessels = _vessels(rng, z, x, fovea)
    return Scene(z, x, depth, sub_rpe, sub_retina, material, shadow, vessels, cysts)


def _place(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, margin: float) -> tuple[float, float]:
    return rng.uniform(z[0] - margin, z[-1] + margin), rng.uniform(x[0] - margin, x[-1] + margin)


def _near(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, fovea: tuple[float, float],
          spread: float) -> tuple[float, float]:
    """Place near the fovea, but inside the field."""
    cz = np.clip(rng.normal(fovea[0], spread / 2), z[0] - 0.15, z[-1] + 0.15)
    cx = np.clip(rng.normal(fovea[1], spread), 0.9 * x[0] + 0.1 * x[-1], 0.1 * x[0] + 0.9 * x[-1])
    return float(cz), float(cx)


def _healthy_thickness(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, fovea: tuple[float, float],
                       nasal: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Thickness in micrometres of RNFL, GCL, IPL, INL, OPL, ONL, and of the six thin outer layers."""
    dz, dx = z[:, None] - fovea[0], x[None] - fovea[1]
    r2 = dx**2 + dz**2
    pit = 1 - np.exp(-r2 / (2 * rng.uniform(0.22, 0.36) ** 2))
    depth_of_pit = rng.uniform(0.7, 1.0)
    rim = np.exp(-((np.sqrt(r2) - 1.0) ** 2) / (2 * 0.7**2))
    periphery = 1 / (1 + 0.03 * r2)
    open_ = 1 - depth_of_pit * (1 - pit)
    size = rng.normal(1, 0.08)

    def vary(base: np.ndarray, amount: float) -> np.ndarray:
        return np.clip(size * base * (1 + amount * random_surface(rng, z, x, 0.8, 6)), 1.0, None)

    rnfl = (12 + rng.uniform(5, 14) * np.clip(r2, 0, 6) ** 0.5 * (1 + 0.6 * np.tanh(nasal * dx))) * open_
    inner = [vary(rnfl, 0.1), vary((18 + 28 * rim) * open_ * periphery, 0.06),
             vary((24 + 18 * rim) * open_ * periphery, 0.05), vary((26 + 14 * rim) * open_ * periphery, 0.06),
             vary(18 + 10 * pit, 0.08),
             vary((62 + 45 * np.exp(-r2 / 0.5)) * periphery, 0.04)]
    bulge = 1 + 0.35 * np.exp(-r2 / 0.12)
    outer = [np.full_like(r2, t) for t in (6.0, 15.0, 16.0)] + [vary(17 * bulge, 0.05)]
    outer += [vary(np.full_like(r2, rng.uniform(20, 28)), 0.06), np.full_like(r2, 6.0)]
    return inner, outer


def _stack(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, inner: list[np.ndarray], outer: list[np.ndarray],
           lift: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Surfaces (16, z, x) in micrometres, Bruch's membrane at 0, smaller is towards the vitreous."""
    elm_t, myoid, ez, os_, rpe_t, bm_t = outer
    rpe_bottom = -lift
    rpe = rpe_bottom - rpe_t
    end = rpe - gap
    # photoreceptors are short over drusen, long over fluid
    squeeze = 1 / (1 + lift / 70)
    ez_bottom = end - os_ * squeeze
    ez_top = ez_bottom - ez * np.clip(squeeze, 0.5, 1)
    elm_bottom = ez_top - myoid * np.clip(squeeze, 0.5, 1)
    elm = elm_bottom - elm_t
    # the inner retina follows what is below it more stiffly
    pushed = 0.55 * _stiff(lift, z, x, 0.22) + 0.85 * _stiff(gap, z, x, 0.2)
    opl_onl = np.minimum(-(rpe_t + os_ + ez + myoid + elm_t) - pushed - inner[5], elm - 14)
    surfaces = [opl_onl]
    for thickness in inner[4::-1]:
        surfaces.insert(0, surfaces[0] - thickness)
    choroid = np.clip(rng.uniform(140, 380) * (1 + 0.15 * random_surface(rng, z, x, 1.2, 6)), 60, None)
    surfaces += [elm, elm_bottom, ez_top, ez_bottom, end, rpe, rpe_bottom, np.zeros_like(lift), bm_t, choroid]
    depth = np.stack(surfaces)
    # real borders are rough; the order of the surfaces stays
    rough = rng.normal(0, 2.5, depth.shape)
    rough[SURFACES.index("elm"):] *= 0.5
    depth += (rough + np.roll(rough, 1, -1) + np.roll(rough, 2, -1)) / 3
    return np.maximum.accumulate(depth, 0)


def _stiff(height: np.ndarray, z: np.ndarray, x: np.ndarray, sigma: float) -> np.ndarray:
    dz = z[1] - z[0] if len(z) > 1 else 1.0
    return gaussian_filter(height, (sigma / dz if len(z) > 1 else 0, sigma / (x[1] - x[0])), mode="nearest")


def _cysts(rng: np.random.Generator, z: np.ndarray, x: np.ndarray, depth: np.ndarray, centre: tuple[float, float],
           reach: float) -> list[Cyst]:
    """Cysts of one oedematous place: slim ones in the inner nuclear layer, round ones in the outer one."""
    out = []
    for top_name, bottom_name, number, lateral, grow in (
        ("ipl_inl", "inl_opl", rng.integers(4, 15), (0.025, 0.12), 1.25),
        ("opl_onl", "elm", rng.integers(2, 8), (0.05, 0.34), 0.97),
        ("gcl_ipl", "ipl_inl", rng.integers(0, 3), (0.02, 0.05), 0.9),
    ):
        top, bottom = depth[SURFACES.index(top_name)], depth[SURFACES.index(bottom_name)]
        middle, half = (top + bottom) / 2, (bottom - top) / 2
        for k in range(number):
            spread = 0.25 if k == 0 else 1.0
            cz, cx = np.array(centre) + rng.normal(0, 0.8 * reach * spread, 2) * (min(1.0, np.ptp(z) / reach + 0.05), 1)
            radius = rng.uniform(*lateral)
            rough = 1 + 0.22 * random_surface(rng, z, x, 0.45 * radius, 5)
            rho2 = ((x[None] - cx) ** 2 + (z[:, None] - cz) ** 2) / radius**2 * rough**2
            tall = grow * rng.uniform(0.6, 0.98) * np.sqrt(np.clip(1 - rho2, 0, None)) * half
            mid = middle + rng.uniform(-0.12, 0.12) * half
            edge = 1 + 0.1 * random_surface(rng, z, x, 0.5 * radius, 4)
            # stays inside the retina
            upper = np.maximum(mid - tall * edge, depth[0] + 8)
            lower = np.minimum(mid + tall * (2 - edge), depth[SURFACES.index("elm")] - 3)
            present = (tall > 4) & (lower - upper > 8)
            if present.any():
                out.append(Cyst(np.where(present, upper, 0), np.where(present, lower, 0)))
    return out


def _vessels(rng: np.random.Generator, z: np.ndarray, x: np.ndarray,
             fovea: tuple[float, float]) -> tuple[np.ndarray, list[tuple[np.ndarray, float]]]:
    shadow = np.zeros((len(z), len(x)))
    vessels = []
    for _ in range(rng.integers(3, 11)):
        radius = rng.uniform(0.01, 0.04)
        path = rng.uniform(x[0], x[-1]) + rng.normal(0, 0.7) * (z - fovea[0])
        path += 0.06 * random_surface(rng, z, x[:1], 0.7, 5)[:, 0]
        path = np.where(np.abs(path - fovea[1]) < 0.35, np.nan, path)  # the fovea has no vessels
        distance = np.abs(x[None] - path[:, None])
        dark = rng.uniform(0.2, 0.9) * np.exp(-((np.nan_to_num(distance, nan=9.0) / (radius * 1.1)) ** 4))
        shadow = np.maximum(shadow, dark)
        vessels.append((path, radius))
    return shadow, vessels
