"""Random views of the annotated images, at the working scales of inference, balanced over data sets and targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from napari_claps.inference.scales import scaled_shape
from napari_claps.synthetic import synthetic_bscan
from napari_claps.types import Modality
from napari_claps.words.vocabulary import TARGETS, Kind
from training.data.augment import augment_photometry
from training.data.records import Record, read_mask, read_rgb
from training.data.scales import targets_by_side

ABSURD = "absurd"
"""Stands for a text that names nothing in any retinal image."""


@dataclass(frozen=True, eq=False)
class CachedImage:
    """One image at one working scale: (y, x, 3) uint8, and (y, x) uint8 masks of what is present.

    `targets` are the annotated targets that are looked for at this scale.
    """

    dataset: str
    modality: Modality
    image: np.ndarray
    masks: dict[str, np.ndarray]
    targets: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Views with their prompts.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W) float in [0, 1].
    modalities : tuple of Modality
        Of each view.
    prompts : tuple of (int, str)
        (view, target id): every target that was annotated in the view and drawn; present or absent.
    masks : Tensor
        (P, H, W) float in [0, 1], the share of each pixel that belongs to the target.
    """

    images: Tensor
    modalities: tuple[Modality, ...]
    prompts: tuple[tuple[int, str], ...]
    masks: Tensor


def cache_record(record: Record) -> list[CachedImage]:
    """Read an image at each scale at which one of its targets is looked for."""
    image = read_rgb(record.image)
    shape = image.shape[:2]
    cached = []
    for side, targets in targets_by_side(record.modality, record.targets, shape).items():
        size = scaled_shape(shape, side)
        masks = {t: _resized(read_mask(record.masks[t], shape).astype(np.uint8) * 255, size)
                 for t in targets if t in record.masks}
        cached.append(CachedImage(record.dataset, record.modality, _resized(image, size), masks, tuple(targets)))
    return cached


def synthetic_images(count: int, seed: int) -> list[CachedImage]:
    """Render B-scans with random findings and styles."""
    rng = np.random.default_rng(seed)
    names = ("drusen", "intraretinal_fluid", "subretinal_fluid")
    images = []
    for _ in tqdm(range(count), desc="synthetic B-scans", mininterval=10):
        shape = (int(rng.integers(256, 448)), 512)
        findings = tuple(n for n in names if rng.random() < 0.5)
        image, truth = synthetic_bscan(rng, shape=shape, findings=findings)
        rgb = np.repeat(image[..., None], 3, axis=2)
        known = dict.fromkeys((*names, "retina", "rpe_bm_complex"))
        masks = {t: m.astype(np.uint8) * 255 for t, m in truth.items() if t in known and m.any()}
        images.append(CachedImage("synthetic", Modality.OCT, rgb, masks, tuple(known)))
    return images


class ViewSampler:
    """Draws batches of views.

    Parameters
    ----------
    images : sequence of CachedImage
    weights : mapping of data set to float
        How often views of a data set are drawn, relative to each other; ``"idrid.lesion"`` holds for those of its
        images that are at the scale of such targets.
    views : mapping of group to (height, width)
        Size of the views of ``"oct"`` and ``"en_face"`` batches.
    oct_share : float
        Share of batches that are B-scans.
    max_prompts : int
        Prompts per view.
    absurd_share : float
        How often a view is also asked for something that no retinal image shows.
    augmentation : float
        Factor on the changes of size and photometry; turning and mirroring stay.
    """

    def __init__(self, images: Sequence[CachedImage], *, weights: dict[str, float],
                 views: dict[str, tuple[int, int]], oct_share: float, max_prompts: int = 4,
                 absurd_share: float = 0.0, augmentation: float = 1.0) -> None:
        self._pools: dict[str, dict[tuple[str, tuple[str, ...]], list[CachedImage]]] = {"oct": {}, "en_face": {}}
        for image in images:
            group = "oct" if image.modality is Modality.OCT else "en_face"
            self._pools[group].setdefault((image.dataset, image.targets), []).append(image)
        self._weights = weights
        self._views = {k: (int(v[0]), int(v[1])) for k, v in views.items()}
        self._oct_share = oct_share if self._pools["oct"] else 0.0
        if not self._pools["en_face"]:
            self._oct_share = 1.0
        self._max_prompts = max_prompts
        self._absurd_share = absurd_share
        self._augmentation = augmentation

    def batch(self, size: int, rng: random.Random) -> ViewBatch:
        """Draw `size` views of one group."""
        group = "oct" if rng.random() < self._oct_share else "en_face"
        pools = self._pools[group]
        keys = list(pools)
        weights = [self._weight(dataset, targets[0]) for dataset, targets in keys]
        view = self._views[group]
        images, modalities, prompts, masks = [], [], [], []
        for index, key in enumerate(rng.choices(keys, weights, k=size)):
            item, focus = self._choose(pools[key], rng)
            stack, names = self._cut(item, focus, view, rng)
            images.append(stack[:3])
            modalities.append(item.modality)
            found = {n: m for n, m in zip(names, stack[3:], strict=True) if m.max() > 0.5}
            absent = [t for t in item.targets if t not in found]
            rng.shuffle(absent)
            chosen = rng.sample(list(found), min(len(found), self._max_prompts - bool(absent)))
            chosen += absent[:max(1, min(2, self._max_prompts - len(chosen)))] if absent else []
            if rng.random() < self._absurd_share:
                chosen.append(ABSURD)
            for target in chosen:
                prompts.append((index, target))
                masks.append(found.get(target, torch.zeros(view)))
        batch = augment_photometry(torch.stack(images), rng, self._augmentation)
        return ViewBatch(batch, tuple(modalities), tuple(prompts), torch.stack(masks))

    def _weight(self, dataset: str, target: str) -> float:
        kind = TARGETS[target].kind
        return self._weights.get(f"{dataset}.{kind}", self._weights.get(dataset, 1.0))

    def _choose(self, pool: list[CachedImage], rng: random.Random) -> tuple[CachedImage, str | None]:
        """Draw an image; in two of three cases one that shows a target drawn evenly, to balance rare ones."""
        present = sorted({t for item in pool for t in item.masks})
        if present and rng.random() < 0.67:
            target = rng.choice(present)
            return rng.choice([item for item in pool if target in item.masks]), target
        return rng.choice(pool), None

    def _cut(self, item: CachedImage, focus: str | None, view: tuple[int, int],
             rng: random.Random) -> tuple[Tensor, list[str]]:
        """Cut a randomly scaled, turned and mirrored view: (3 + masks, H, W)."""
        height, width = item.image.shape[:2]
        is_oct = item.modality is Modality.OCT
        whole = TARGETS[item.targets[0]].kind in (Kind.OBJECT, Kind.BAND) and not is_oct
        zoom = 2.0 ** (self._augmentation * rng.uniform(-0.5, 0.5))
        stretch = 2.0 ** (self._augmentation * rng.uniform(-0.15, 0.15))
        angle = rng.uniform(-12, 12) if is_oct else rng.uniform(-25, 25) if whole else rng.uniform(-180, 180)
        if focus is not None and not (whole and rng.random() < 0.5):
            rows, columns = np.nonzero(item.masks[focus] > 127)
            pick = rng.randrange(len(rows)) if len(rows) else -1
            cy, cx = (rows[pick], columns[pick]) if pick >= 0 else (height / 2, width / 2)
            cy += rng.uniform(-0.3, 0.3) * view[0] / zoom
            cx += rng.uniform(-0.3, 0.3) * view[1] / zoom
        else:
            cy, cx = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
        if is_oct:  # keep the retina in sight
            cy = min(max(cy, height * 0.3), height * 0.7)
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        flip = -1.0 if rng.random() < 0.5 else 1.0
        upside = -1.0 if not is_oct and rng.random() < 0.5 else 1.0
        # Rows: x and y of the source in pixels, from x and y of the view in its normalised frame.
        half = np.array([view[1], view[0]]) / 2 / zoom * np.array([stretch, 1 / stretch])
        matrix = np.array([[cos * half[0] * flip, -sin * half[1] * upside, cx],
                           [sin * half[0] * flip, cos * half[1] * upside, cy]])
        rows, columns = (_reach(matrix[axis], size) for axis, size in ((1, height), (0, width)))
        names = list(item.masks)
        source = np.concatenate([item.image[rows, columns], *(item.masks[n][rows, columns, None] for n in names)],
                                axis=2)
        matrix[:, 2] -= columns.start, rows.start
        matrix *= 2 / np.array([[source.shape[1]], [source.shape[0]]])
        matrix[:, 2] -= 1
        tensor = torch.from_numpy(np.ascontiguousarray(source)).permute(2, 0, 1)[None].float() / 255
        grid = F.affine_grid(torch.tensor(matrix, dtype=torch.float32)[None], [1, 1, *view], align_corners=False)
        if zoom < 0.8:  # avoid aliasing when the view shrinks the image
            tensor = F.avg_pool2d(tensor, 3, stride=1, padding=1)
        border = "border" if is_oct and rng.random() < 0.5 else "zeros"
        pixels = F.grid_sample(tensor[:, :3], grid, mode="bilinear", padding_mode=border, align_corners=False)[0]
        if not names:
            return pixels, names
        masks = F.grid_sample(tensor[:, 3:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        return torch.cat([pixels, masks]), names


def _reach(row: np.ndarray, size: int) -> slice:
    """Pixels of one axis that a view can need, with a margin for smoothing; at least four of them."""
    extent = abs(row[0]) + abs(row[1]) + 4
    start = int(np.clip(row[2] - extent, 0, max(0, size - 4)))
    return slice(start, max(start + 4, int(np.clip(np.ceil(row[2] + extent), 0, size))))


def _resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if array.shape[:2] == size:
        return array
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.BOX if
                      size[0] < array.shape[0] else Image.Resampling.BICUBIC))
