"""Boxes and points that the mask head is asked with in training, made of the true masks."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from napari_claps.words.vocabulary import kind_of
from training.data.sampler import ABSURD, ViewBatch


def spatial_prompts(batch: ViewBatch, rng: random.Random,
                    share: float) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
    """Draw a box or a point for some of the present, compact targets.

    Returns
    -------
    rows : list of int
        The prompts of the batch they belong to.
    boxes : Tensor
        (R, 4) jittered x0, y0, x1, y1; NaN where a point was drawn.
    points, labels : Tensor
        (R, 1, 2) x, y and (R, 1); label -1 where a box was drawn.
    masks : Tensor
        (R, H, W) the object meant.
    """
    from skimage.measure import label

    rows, boxes, points, labels, masks = [], [], [], [], []
    for row, (_, target) in enumerate(batch.prompts):
        if target == ABSURD or kind_of(target).is_whole or rng.random() > share:
            continue
        objects = label((batch.masks[row] > 0.5).cpu().numpy(), connectivity=2)
        count = int(objects.max())
        if not count:
            continue
        mine = torch.from_numpy(objects == rng.randint(1, count)).to(batch.masks.device)
        ys, xs = torch.nonzero(mine, as_tuple=True)
        y0, y1, x0, x1 = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
        height, width = y1 - y0, x1 - x0
        jitter = [rng.gauss(0, 0.07) for _ in range(4)]
        rows.append(row)
        if rng.random() < 0.7:
            boxes.append([x0 + jitter[0] * width, y0 + jitter[1] * height,
                          x1 + jitter[2] * width, y1 + jitter[3] * height])
            points.append([[0.0, 0.0]])
            labels.append([-1.0])
            inside = torch.zeros_like(mine)
            inside[y0:y1, x0:x1] = True
            masks.append(batch.masks[row] * inside)  # all of the target that lies in the box
        else:
            pick = rng.randrange(len(ys))
            boxes.append([float("nan")] * 4)
            points.append([[float(xs[pick]), float(ys[pick])]])
            labels.append([1.0])
            masks.append(batch.masks[row] * mine)
    device = batch.masks.device
    stacked = torch.stack(masks) if masks else torch.empty(0, *batch.masks.shape[1:], device=device)
    return (rows, torch.tensor(boxes, device=device).reshape(-1, 4),
            torch.tensor(points, device=device).reshape(-1, 1, 2),
            torch.tensor(labels, device=device).reshape(-1, 1), stacked)
