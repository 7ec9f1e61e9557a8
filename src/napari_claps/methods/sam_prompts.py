"""What was found, as prompts of the mask head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_claps.methods.base import ViewBox
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.official_sam import OfficialSam
from napari_claps.models.networks.segmenter import MaskPrediction, PixelMaps, RetinalSam

NOWHERE = (float("nan"),) * 4
"""Corners of a prompt without a box."""


def ask_masks(sam: RetinalSam | OfficialSam, maps: PixelMaps, views: Tensor, text: Tensor | None,
              boxes: Sequence[ViewBox | None]) -> MaskPrediction:
    """Predict the masks of P prompts, each for one view.

    Prompts go together when they have the same number of points. The others could be filled up with SAM's *not a
    point*, but that is a token as well: the mask of a prompt would depend on what else was found.

    Parameters
    ----------
    sam : RetinalSam or OfficialSam
    maps : PixelMaps
    views : Tensor
        (P,) int64 number of the view in the batch.
    text : Tensor or None
        (P, D), as in `MaskPrompts`.
    boxes : sequence of ViewBox or None
        P places that were found; None for a prompt of text alone.
    """
    points = [() if box is None else box.points for box in boxes]
    groups = [[i for i, found in enumerate(points) if len(found) == n] for n in sorted({len(p) for p in points})]
    predicted = []
    for rows in groups:
        corners = [NOWHERE if (box := boxes[i]) is None or box.points_alone else box.corners for i in rows]
        at = torch.tensor([[(p.x, p.y, p.inside) for p in points[i]] for i in rows], device=views.device)
        predicted.append(sam.predict_masks(maps, MaskPrompts(
            view=views[rows], text=None if text is None else text[rows],
            boxes=torch.tensor(corners, device=views.device),
            points=at[..., :2] if at.numel() else None, point_labels=at[..., 2] if at.numel() else None)))
    if len(predicted) == 1:
        return predicted[0]
    back = torch.tensor([i for rows in groups for i in rows], device=views.device).argsort()
    return MaskPrediction(*(torch.cat(part)[back] for part in zip(
        *((p.logits, p.iou, p.presence) for p in predicted), strict=True)))
