"""What a surface network is trained with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.layers.network import SurfaceLogits, moments, ordered_marginals


def column_heights(heights: Tensor, columns: int) -> Tensor:
    """Heights (B, K, A-scans) per column (B, K, columns): mean of its A-scans; infinite or NaN if one of them is."""
    return heights.unflatten(2, (columns, -1)).mean(-1)


def class_map(heights: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Class (B, H, W) of each pixel, 0 above all boundaries, and whether it is known, from heights (B, K, W).

    Only columns in which all boundaries are known and visible are known.
    """
    y = torch.arange(rows, device=heights.device)[:, None]
    finite = torch.isfinite(heights)
    below = (y >= torch.where(finite, heights, torch.inf)[:, :, None]) & finite[:, :, None]
    known = finite.all(1)[:, None].expand(-1, rows, -1)
    return below.sum(1), known


def surface_losses(logits: SurfaceLogits, heights: Tensor, *, sigma: float = 1.0) -> dict[str, Tensor]:
    """Losses of a batch, each a mean over the boundaries and columns that it applies to.

    Parameters
    ----------
    logits : SurfaceLogits
    heights : Tensor
        (B, K, A-scans) rows; infinite where not visible, NaN where nobody annotated.
    sigma : float
        Standard deviation in rows of the target: annotators differ by about a pixel.

    Returns
    -------
    dict of str to Tensor
        `cross` over rows, `distance` in rows of the ordered means (Huber), `visible`, `above` where pixels vote, and
        `class` and `dice` where there are classes.
    """
    truth = column_heights(heights, logits.depth.shape[3])
    finite, judged = torch.isfinite(truth), ~torch.isnan(truth)
    depth = logits.depth.float()
    rows = depth.shape[2]
    y = torch.arange(rows, dtype=depth.dtype, device=depth.device)[:, None]
    safe = torch.where(finite, truth, 0.0)
    target = torch.exp(-0.5 * ((y - safe[:, :, None]) / sigma) ** 2)
    target = target / target.sum(2, keepdim=True).clamp(min=1e-6)
    cross = -(target * depth.log_softmax(2)).sum(2)
    count = finite.sum().clamp(min=1)
    mean, _ = moments(ordered_marginals(depth, finite))
    out = {"cross": cross[finite].sum() / count,
           "distance": F.smooth_l1_loss(mean[finite], safe[finite], reduction="sum", beta=2.0) / count,
           "visible": F.binary_cross_entropy_with_logits(logits.visible.float()[judged], finite[judged].float())}
    if logits.above is not None:
        # A boundary that left the picture upwards or downwards says nothing here: which of both is not known.
        side = (y < safe[:, :, None]).float()
        vote = F.binary_cross_entropy_with_logits(logits.above.float(), side, reduction="none").mean(2)
        out["above"] = vote[finite].sum() / count
    if logits.classes is not None:
        index, known = class_map(truth, rows)
        out |= class_losses(logits.classes.float(), index, known)
    return out


def class_losses(classes: Tensor, index: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Cross entropy and soft Dice (over the batch, mean of the layers) of pixel classes (B, C, H, W)."""
    log = classes.log_softmax(1)
    cross = -log.gather(1, index[:, None])[:, 0]
    weight = known.float()
    p = log.exp() * weight[:, None]
    t = F.one_hot(index, classes.shape[1]).movedim(-1, 1) * weight[:, None]
    dice = 1 - (2 * (p * t).sum((0, 2, 3)) + 1) / ((p + t).sum((0, 2, 3)) + 1)
    return {"class": (cross * weight).sum() / weight.sum().clamp(min=1), "dice": dice[1:-1].mean()}
