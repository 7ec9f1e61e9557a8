"""What a mask is asked with: text, box and points, each of which may be missing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PIXEL_STRIDE = 2
"""Pixels of a view to one pixel of a mask."""

POINT_RADIUS = 4.0
"""Pixels of a view around a point that count as what the point shows."""


@dataclass(frozen=True, eq=False)
class MaskPrompts:
    """P prompts, each for one view of the batch.

    Parameters
    ----------
    view : Tensor
        (P,) int64 index of the view.
    text : Tensor or None
        (P, D) text embeddings; a row of NaN means no text.
    boxes : Tensor or None
        (P, 4) x0, y0, x1, y1 in pixels of the view; a row of NaN means no box.
    points : Tensor or None
        (P, N, 2) x, y in pixels of the view.
    point_labels : Tensor or None
        (P, N) 1 inside, 0 outside, -1 no point.
    """

    view: Tensor
    text: Tensor | None = None
    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None

    def regions(self, height: int, width: int) -> Tensor:
        """Boxes (P, 4) in pixels of masks of this size: the box, else the first point's surroundings, else all."""
        count, device = len(self.view), self.view.device
        found = torch.tensor([0.0, 0.0, width, height], device=device).expand(count, 4)
        if self.points is not None and self.point_labels is not None:
            inside = self.point_labels == 1
            first = inside.int().argmax(1)
            x, y = self.points[torch.arange(count, device=device), first].unbind(1)
            near = torch.stack([x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS], 1)
            found = torch.where(inside.any(1, keepdim=True), near / PIXEL_STRIDE, found)
        if self.boxes is not None:
            known = torch.isfinite(self.boxes).all(1, keepdim=True)
            found = torch.where(known, torch.nan_to_num(self.boxes) / PIXEL_STRIDE, found)
        return found
