"""Losses of the detector: which box answers for which object, and how wrong it is.

The decoder is matched one to one (Hungarian method, DETR, arXiv 2005.12872) with the
costs of DINO (arXiv 2203.03605). The cells of the encoder are assigned by their
place alone, several to an object (FCOS, arXiv 1904.01355): in a short training
those many examples teach the classes much faster than the few matched queries.

A text whose target nobody annotated in an image takes no part in that image:
it is neither present nor absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from napari_claps.models.networks.detections import DetectorOutput
from napari_claps.models.networks.detector_transformer import ANCHOR_CELLS, cell_centres
from training.data.detection_data import Truth

ALPHA, GAMMA = 0.25, 2.0
CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
CENTRE = 0.5
"""Part of an object's width and height in which cells answer for it."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Pairs of a cell and an object, over the whole batch.

    `cells` (B, M) int, filled up with 0; `image` and `place` (P,) say where the
    P pairs are in it, `truth` (P,) which object of the image the cell answers for.
    """

    cells: Tensor
    image: Tensor
    place: Tensor
    truth: Tensor


def assign_cells(truths: Sequence[Truth], shapes: Sequence[tuple[int, int]]) -> Assignment:
    """Choose the cells that answer for each object.

    The level is the one whose anchor is nearest in size; there, the cell in
    which the object's centre lies and those in its middle (`CENTRE`) answer.

    Parameters
    ----------
    truths : sequence of Truth
    shapes : sequence of tuple
        (height, width) of the feature maps, finest first.
    """
    device = truths[0].boxes.device
    rows, image, place, truth_index = [], [], [], []
    starts = [0]
    for height, width in shapes:
        starts.append(starts[-1] + height * width)
    centres = [cell_centres([shape], truths[0].boxes) for shape in shapes]
    for number, truth in enumerate(truths):
        row: list[int] = []
        for index, (cx, cy, width, height) in enumerate(truth.boxes.tolist()):
            rows_fine, columns_fine = shapes[0]
            side = math.sqrt(max(width * columns_fine * height * rows_fine, 1e-6))  # in finest cells
            level = min(max(round(math.log2(side / ANCHOR_CELLS)), 0), len(shapes) - 1)
            rows_here, columns_here = shapes[level]
            distance = (centres[level] - torch.tensor([cx, cy], device=device)).abs()
            inside = (distance[:, 0] <= CENTRE * width / 2) & (distance[:, 1] <= CENTRE * height / 2)
            inside[min(int(cy * rows_here), rows_here - 1) * columns_here + min(int(cx * columns_here),
                                                                               columns_here - 1)] = True
            for cell in inside.nonzero()[:, 0].tolist():
                image.append(number)
                place.append(len(row))
                truth_index.append(index)
                row.append(starts[level] + cell)
        rows.append(row)
    longest = max(map(len, rows))
    cells = torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.long, device=device)
    as_index = [torch.tensor(v, dtype=torch.long, device=device) for v in (image, place, truth_index)]
    return Assignment(cells.view(len(truths), longest), *as_index)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Cheapest one-to-one matching of queries and objects.

    Parameters
    ----------
    logits : Tensor
        (Q, T).
    boxes : Tensor
        (Q, 4) cxcywh.
    truth : Truth

    Returns
    -------
    queries, objects : Tensor
        (K,) int each, K = min(Q, N).
    """
    cost = matching_cost(logits, boxes, truth)
    queries, objects = linear_sum_assignment(cost.cpu().numpy())
    device = logits.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(objects, device=device)


def matching_cost(logits: Tensor, boxes: Tensor, truth: Truth) -> Tensor:
    """Cost (Q, N) of each query answering for each object: focal class cost, L1 and GIoU."""
    logits = logits.float()[:, truth.text]
    score = logits.sigmoid()
    classes = ALPHA * (1 - score) ** GAMMA * F.softplus(-logits) - (1 - ALPHA) * score**GAMMA * F.softplus(logits)
    giou = generalized_box_iou(_corners(boxes.float()), _corners(truth.boxes))
    return CLASS_COST * classes + L1_COST * torch.cdist(boxes.float(), truth.boxes, p=1) - GIOU_COST * giou


def focal_loss(logits: Tensor, positive: Tensor, known: Tensor) -> Tensor:
    """Sum of the sigmoid focal loss (arXiv 1708.02002) over the known texts.

    Parameters
    ----------
    logits, positive : Tensor
        (B, N, T) scores and 0 or 1.
    known : Tensor
        (B, T) bool, False where the text was not annotated.
    """
    logits = torch.where(known[:, None], logits.float(), logits.new_zeros(()))
    score = logits.sigmoid()
    right = positive * score + (1 - positive) * (1 - score)
    weight = positive * ALPHA + (1 - positive) * (1 - ALPHA)
    loss = weight * (1 - right) ** GAMMA * F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    return (loss * known[:, None]).sum()


def detection_loss(
    output: DetectorOutput, truths: Sequence[Truth], known: Tensor, assignment: Assignment
) -> dict[str, Tensor]:
    """Losses by name; their sum is minimised.

    Parameters
    ----------
    output : DetectorOutput
        Of a forward pass with ``text_mask=known`` and ``cells=assignment.cells``.
    truths : sequence of Truth
        One per image; they name only known texts.
    known : Tensor
        (B, T) bool.
    assignment : Assignment
    """
    losses = _decoder_loss("", output.logits, output.boxes, truths, known)
    for number, layer in enumerate(output.aux):
        losses |= _decoder_loss(f"aux{number}_", layer.logits, layer.boxes, truths, known)
    return losses | _encoder_loss(output, truths, known, assignment)


def _decoder_loss(
    name: str, logits: Tensor, boxes: Tensor, truths: Sequence[Truth], known: Tensor
) -> dict[str, Tensor]:
    positive = torch.zeros_like(logits, dtype=torch.float32)
    found, wanted = [], []
    for image, truth in enumerate(truths):
        queries, objects = match(logits[image], boxes[image], truth)
        positive[image, queries, truth.text[objects]] = 1
        found.append(boxes[image, queries])
        wanted.append(truth.boxes[objects])
    return box_losses(name, focal_loss(logits, positive, known), torch.cat(found), torch.cat(wanted))


def _encoder_loss(
    output: DetectorOutput, truths: Sequence[Truth], known: Tensor, assignment: Assignment
) -> dict[str, Tensor]:
    positive = torch.zeros_like(output.cell_logits, dtype=torch.float32)
    pairs = list(zip(assignment.image.tolist(), assignment.truth.tolist(), strict=True))
    wanted = torch.stack([truths[i].boxes[t] for i, t in pairs]) if pairs else output.boxes.new_zeros(0, 4)
    if pairs:
        text = torch.stack([truths[i].text[t] for i, t in pairs])
        positive[assignment.image, assignment.cells[assignment.image, assignment.place], text] = 1
    found = output.cell_boxes[assignment.image, assignment.place]
    return box_losses("encoder_", focal_loss(output.cell_logits, positive, known), found, wanted)


def box_losses(name: str, focal: Tensor, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Weighted class, L1 and GIoU loss of N boxes (N, 4), cxcywh, that should be `wanted`; means over the boxes."""
    found = found.float()
    count = max(len(found), 1)
    giou = generalized_box_iou_loss(_corners(found), _corners(wanted), reduction="sum")
    return {
        f"{name}class": CLASS_WEIGHT * focal / count,
        f"{name}l1": L1_WEIGHT * F.l1_loss(found, wanted, reduction="sum") / count,
        f"{name}giou": GIOU_WEIGHT * giou / count,
    }


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")
