"""A linear projection that is learnt on centred and scaled features, and then put into one without a bias.

Features of a tuned trunk vary little about a large mean. On them a projection without a bias, as CLIP has it, learns
slowly: most of each step goes into what is the same in every image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_DEVIATION = 0.05
"""Added to the deviation of each feature, so that those that hardly vary are not blown up."""
RIDGE = 1e-3
"""Of the least squares that express a constant by the features, relative to their number."""


class StandardisedProjection(nn.Module):
    """Projection (N, D) of features (N, C), which starts from given weights but without what is common to all images.

    Parameters
    ----------
    weight : Tensor
        (D, C) of the projection to improve.
    features : Tensor
        (N, C) whose mean and deviation are taken out.
    """

    def __init__(self, weight: Tensor, features: Tensor) -> None:
        super().__init__()
        deviation = features.std(0) + LEAST_DEVIATION
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("deviation", deviation / deviation.mean())
        self.weight = nn.Parameter(weight.detach() * self.deviation)
        self.bias = nn.Parameter(torch.zeros(len(weight)))

    def forward(self, features: Tensor) -> Tensor:
        """Project (N, C) to (N, D)."""
        return ((features - self.mean) / self.deviation) @ self.weight.T + self.bias

    @torch.no_grad()
    def folded(self, features: Tensor) -> Tensor:
        """Weights (D, C) that do the same without a bias, on features like those given (N, C).

        The constant is expressed by the features themselves: a direction in which all of them are about 1.
        """
        wide = features.double()
        square = wide.T @ wide + RIDGE * len(wide) * torch.eye(wide.shape[1], dtype=wide.dtype)
        one = torch.linalg.solve(square, wide.sum(0)).float()
        weight = self.weight / self.deviation
        return weight + torch.outer(self.bias - weight @ self.mean, one)
