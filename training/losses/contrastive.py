"""The contrastive loss with several positives per caption (UniCL, arXiv 2204.03610)."""

from __future__ import annotations

from torch import Tensor


def contrastive_loss(images: Tensor, texts: Tensor, relation: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss with several positives.

    Parameters
    ----------
    images, texts : Tensor
        (B, D) and (N, D) unit vectors.
    relation : Tensor
        (B, N) 1 where the text fits the image, 0 where not, -1 where unknown.
    """
    logits = (scale * images @ texts.T).masked_fill(relation < 0, float("-inf"))
    positive = (relation > 0).float()
    losses = []
    for axis in (0, 1):
        log_p = logits.log_softmax(dim=axis).masked_fill(relation < 0, 0.0)
        count = positive.sum(axis)
        losses.append((-(log_p * positive).sum(axis) / count.clamp(min=1))[count > 0].mean())
    return (losses[0] + losses[1]) / 2
