"""M2IB: which positions of a late layer carry the information that a text and an image share.

Wang, Rudner, Wilson, "Visual Explanations of Image-Text Representations via
Multi-Modal Information Bottleneck Attribution" (NeurIPS 2023).

A mask in (0, 1) for every single feature mixes it with Gaussian noise of the
layer's own mean and variance. The mask is optimised so that little information
passes (Kullback-Leibler divergence between what passes and pure noise) while
the embedding stays near the text. What passes in the end is the saliency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Bottleneck:
    """Settings of the information bottleneck.

    Parameters
    ----------
    layer : int
        Index in `napari_claps.models.networks.clip.STRIDES` of the layer whose features are masked.
    beta : float
        Weight of the compression against the cosine.
    variance : float
        Of the noise, as a multiple of the layer's own variance.
    steps, rate : int, float
        Steps of Adam, and its learning rate.
    draws : int
        Noise draws per step; the paper takes ten. On a fundus photograph the map of two differed from that of ten no
        more than another seed did (correlation 0.98), in a fifth of the time.
    start : float
        First logit of the mask: nearly all information passes.
    """

    layer: int = 3
    beta: float = 1.0
    variance: float = 1.0
    steps: int = 10
    rate: float = 1.0
    draws: int = 2
    start: float = 5.0


def information_map(features: Tensor, embed: Callable[[Tensor], Tensor], text: Tensor, settings: Bottleneck,
                    *, seed: int = 0) -> Tensor:
    """Information per position that passes the optimised bottleneck.

    Parameters
    ----------
    features : Tensor
        (C, ...) of one view at the layer, any positions; may come from inference mode.
    embed : callable
        The rest of the image tower: (N, C, ...) to unit vectors (N, D).
    text : Tensor
        (D,) unit vector.
    settings : Bottleneck
    seed : int
        Of the noise, which depends on it and the shape alone: a view gives the same map in any batch.

    Returns
    -------
    Tensor
        (...) float32, nats per position, summed over channels; all NaN if features or text are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    # Everything runs under inference mode; tensors made there cannot take part in a gradient, their copies can.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
        features, text = features.clone().float(), text.clone().float()
        if not (torch.isfinite(features).all() and torch.isfinite(text).all()):
            return features.new_full(features.shape[1:], float("nan"))
        mean, deviation = layer_statistics(features)
        standard = (features - mean) / deviation
        logits = torch.full_like(standard, settings.start, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=settings.rate)
        for _ in range(settings.steps):
            noise = torch.randn(settings.draws, *standard.shape, generator=generator).to(features.device)
            share = logits.sigmoid()
            mixed = share * standard + (1 - share) * settings.variance ** 0.5 * noise
            cosine = (embed(mean + deviation * mixed) @ text).mean()
            loss = settings.beta * divergence(standard, logits, settings.variance).mean() - cosine
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return divergence(standard, logits.detach(), settings.variance).sum(0)


def layer_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of (C, ...), over the positions, in the same number of axes."""
    axes = tuple(range(1, features.ndim))
    return (features.mean(axes, keepdim=True),
            features.std(axes, keepdim=True, correction=0).clamp(min=1e-6))


def divergence(standard: Tensor, logits: Tensor, variance: float) -> Tensor:
    """Kullback-Leibler divergence, in nats, of each masked feature from pure noise.

    With the mask m = sigmoid(logits), the masked feature is normal with mean m r and variance (1 - m)^2 v, the
    noise is normal with mean 0 and variance v (r: feature less the layer's mean, in its standard deviations).
    """
    share = logits.sigmoid()
    return ((1 - share) ** 2 + share ** 2 * standard ** 2 / variance - 1) / 2 - F.logsigmoid(-logits)
