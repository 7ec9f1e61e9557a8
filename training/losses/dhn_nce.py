"""The decoupled hard-negative noise contrastive estimation loss (DHN-NCE) of MedCLIP-SAMv2 (arXiv 2409.19483).

For a batch of B unit vectors I_i (image) and T_i (text), image to text::

    L = sum_i [ -I_i.T_i / t + log sum_{j != i} W_ij exp(I_i.T_j / t) ]
    W_ij = (B - 1) exp(b I_i.T_j / t) / sum_{k != i} exp(b I_i.T_k / t)

and alike from text to image; the loss is the sum of both. *Decoupled*: the
positive pair is not in the denominator, so a small batch still has a gradient.
*Hard negative*: a negative counts the more, the more alike it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from napari_claps.errors import InputError

TEMPERATURE = 0.6
BETA = 0.15
"""Values of the paper."""


def dhn_nce_loss(images: Tensor, texts: Tensor, *, temperature: float = TEMPERATURE, beta_image: float = BETA,
                 beta_text: float = BETA, negatives: Tensor | None = None) -> Tensor:
    """Loss of B pairs, summed over the pairs and both directions.

    Parameters
    ----------
    images, texts : Tensor
        (B, D) unit vectors; row i of one belongs to row i of the other.
    temperature : float
    beta_image, beta_text : float
        Hardness of the negatives for each image, and for each text; 0 counts all alike.
    negatives : Tensor, optional
        (B, B) bool, whether text j is known not to fit image i. Without it, every other pair is a negative, as in
        the paper; labels that many images share would make false ones. A row without negatives is left out.

    Raises
    ------
    InputError
        If there are fewer than two pairs, the shapes differ, or the temperature is not positive.
    """
    count = len(images)
    if images.shape != texts.shape or images.ndim != 2 or count < 2:
        raise InputError(f"DHN-NCE needs at least 2 pairs of vectors, image and text alike; got {tuple(images.shape)} "
                         f"and {tuple(texts.shape)}. Choose a larger batch.")
    if not temperature > 0:
        raise InputError(f"DHN-NCE: temperature = {temperature} must be positive.")
    others = ~torch.eye(count, dtype=torch.bool, device=images.device)
    if negatives is not None:
        others = others & negatives
    logits = images @ texts.T / temperature
    return _one_direction(logits, others, beta_image) + _one_direction(logits.T, others.T, beta_text)


def _one_direction(logits: Tensor, others: Tensor, beta: float) -> Tensor:
    """Sum over the rows that have negatives."""
    kept = others.any(1)
    logits, others, positive = logits[kept], others[kept], logits.diagonal()[kept]
    # The logarithm of the weighted sum, with the weights' own denominator taken out of it: nothing overflows.
    weighted = ((1 + beta) * logits).masked_fill(~others, -math.inf).logsumexp(1)
    weights = (beta * logits).masked_fill(~others, -math.inf).logsumexp(1)
    return (weighted - weights + others.sum(1).to(logits.dtype).log() - positive).sum()
