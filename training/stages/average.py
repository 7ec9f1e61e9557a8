"""The running mean of the weights, which every stage with a head leaves behind."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedModel:
    """Running mean of the weights: better than the last ones when a run is short."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after `step` (from 0); faster in the beginning."""
        decay = min(self._decay, (step + 1) / (step + 11))
        own = dict(self.model.named_parameters())
        for name, value in model.named_parameters():
            if value.requires_grad:
                own[name].lerp_(value, 1 - decay)
