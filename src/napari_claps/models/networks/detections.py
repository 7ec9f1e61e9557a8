"""What a detector says: boxes that were found, and what its losses need."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Proposals:
    """Logits (B, Q, T), one per text, and boxes (B, Q, 4), cxcywh as fractions of the view."""

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True, eq=False)
class DetectorOutput:
    """Boxes of the last decoder layer, and what the losses need.

    `aux` are those of the earlier layers. `cell_logits` (B, N, T) are those of
    all N cells of the feature maps, the best of which became queries, and
    `cell_boxes` (B, M, 4) the boxes of the cells that `forward` was asked for.
    """

    logits: Tensor
    boxes: Tensor
    aux: tuple[Proposals, ...]
    cell_logits: Tensor
    cell_boxes: Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one view above the threshold, best first.

    `boxes` is (N, 4) XYXY in pixels of the view, `text` (N,) the index of the
    text, `scores` (N,) in [0, 1]. `presence` (T,) is the best score of each text
    anywhere in the view, whatever the threshold.
    """

    boxes: Tensor
    text: Tensor
    scores: Tensor
    presence: Tensor
