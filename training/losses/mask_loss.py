"""What the mask head learns from: its masks against the true ones, and the masks of one view against each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.models.networks.segmenter import MaskPrediction


def mask_loss(prediction: MaskPrediction, masks: Tensor) -> dict[str, Tensor]:
    """Losses of P predictions against masks (P, H, W) in [0, 1] at the view's resolution."""
    truth = F.avg_pool2d(masks[:, None], 2)[:, 0]
    logits = prediction.logits.float()
    present = truth.flatten(1).amax(1) > 0.5
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))
    p = logits.sigmoid()
    overlap = (p * truth).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    with torch.no_grad():
        hard, solid = p > 0.5, truth > 0.5
        union = (hard | solid).sum((1, 2))
        iou = torch.where(union > 0, (hard & solid).sum((1, 2)) / union.clamp(min=1), torch.ones_like(dice))
    return {
        "cross": cross.mean(),
        "dice": dice[present].mean() if present.any() else logits.sum() * 0,
        "presence": F.binary_cross_entropy_with_logits(prediction.presence.float(), present.float()),
        "iou": F.mse_loss(prediction.iou.float(), iou),
    }


def contrast_loss(logits: Tensor, masks: Tensor, view: Tensor) -> Tensor:
    """Loss of pixels that belong to one target of a view and not to another: the first shall be the likelier.

    Two targets that are alike, as arteries and veins are, can each have a fair Dice with the mask of both together;
    only the difference between their masks says that this is wrong.

    Parameters
    ----------
    logits : Tensor
        (P, H / 2, W / 2) of prompts by text alone.
    masks : Tensor
        (P, H, W) in [0, 1].
    view : Tensor
        (P,) view of each prompt.
    """
    truth, logits = F.avg_pool2d(masks[:, None], 4)[:, 0], F.avg_pool2d(logits.float()[:, None], 2)[:, 0]
    losses = []
    for index in view.unique().tolist():
        mine = view == index
        t, score = truth[mine], logits[mine]
        only = t[:, None] * (1 - t[None])  # (n, n, h, w): in the first and not in the second
        area = only.sum((2, 3))
        wrong = (only * F.softplus(score[None] - score[:, None])).sum((2, 3))
        losses.append((wrong / area.clamp(min=1))[area > 4])
    pairs = torch.cat(losses)
    return pairs.mean() if len(pairs) else logits.sum() * 0
