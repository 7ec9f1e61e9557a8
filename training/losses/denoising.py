"""Denoising queries: true boxes with noise, to be put right (DN-DETR, arXiv 2203.01305; DINO, arXiv 2203.03605).

Matching is unstable while boxes are bad, so the decoder also gets queries that need none: for every object some near it
(they shall become its box and text) and some further off (they shall say "nothing here"). A mask keeps their truth from
the other queries. Their content is the embedding of their text, so that the detector has no further weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from napari_claps.models.networks.detections import DetectorOutput, Proposals
from napari_claps.models.networks.detector import RetinalDetector
from napari_claps.models.networks.detector_text import TextFeatures
from training.data.detection_data import Truth
from training.losses.detection_loss import box_losses, focal_loss

NEAR, FAR = 0.5, 1.0  # largest shift of the centre in half sides, and change of the sides
WRONG_TEXT = 0.25  # how often a query gets the text of something else that is known in the image


@dataclass(frozen=True, eq=False)
class NoisedBoxes:
    """Noised objects in groups that do not see each other.

    Parameters
    ----------
    boxes, text : Tensor
        (B, K, 4) cxcywh as fractions of the view; (B, K) the text that is shown.
    truth, near : Tensor
        (B, K) the object of the image it was made from, -1 fills up; (B, K) bool, whether it shall find the object.
    group : Tensor
        (K,).
    """

    boxes: Tensor
    text: Tensor
    truth: Tensor
    near: Tensor
    group: Tensor


def noised_boxes(truths: Sequence[Truth], known: Tensor, groups: int) -> NoisedBoxes | None:
    """Draw noise for all objects, `groups` times near and as often far; None if there is no object."""
    most = max(len(t.boxes) for t in truths)
    if not most:
        return None
    device = known.device
    slot = torch.arange(2 * groups * most, device=device)
    objects, near = slot % most, (slot // most) % 2 == 0
    boxes = torch.full((len(truths), len(slot), 4), 0.5, device=device)
    text = torch.zeros(boxes.shape[:2], dtype=torch.long, device=device)
    index = torch.full_like(text, -1)
    for row, truth in enumerate(truths):
        real = objects < len(truth.boxes)
        mine, close = objects[real], near[real][:, None]
        size = torch.where(close, torch.rand(len(mine), 4, device=device) * NEAR,
                           NEAR + torch.rand(len(mine), 4, device=device) * (FAR - NEAR))
        noise = size * (torch.randint(2, size.shape, device=device) * 2 - 1)
        clean = truth.boxes[mine]
        boxes[row, real] = torch.cat([clean[:, :2] + noise[:, :2] * clean[:, 2:] / 2,
                                      clean[:, 2:] * (1 + noise[:, 2:])], dim=1).clamp(1e-3, 1 - 1e-3)
        choice = known[row].nonzero()[:, 0]
        other = choice[torch.randint(len(choice), (len(mine),), device=device)]
        text[row, real] = torch.where(torch.rand(len(mine), device=device) < WRONG_TEXT, other, truth.text[mine])
        index[row, real] = mine
    return NoisedBoxes(boxes, text, index, near.expand(len(truths), -1), slot // (2 * most))


@contextmanager
def extra_queries(detector: RetinalDetector, text: TextFeatures, noised: NoisedBoxes) -> Iterator[None]:
    """Within the block the decoder of `detector` gets the noised boxes after its own queries."""
    pooling = text.members / text.members.sum(1, keepdim=True)

    def add(module: nn.Module, arguments: tuple[()], named: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        queries, words = named["tgt"], pooling.to(named["memory_text"].dtype) @ named["memory_text"]  # (B, T, D)
        content = words.gather(1, noised.text[..., None].expand(-1, -1, words.shape[-1])).transpose(0, 1)
        group = torch.cat([noised.group.new_full((len(queries),), -1), noised.group])
        # All see the ordinary queries; a noised one is seen by its own group alone.
        hidden = (group[None] >= 0) & (group[:, None] != group[None])
        place = torch.logit(noised.boxes).transpose(0, 1).to(named["refpoints_unsigmoid"].dtype)
        return arguments, named | {
            "tgt": torch.cat([queries, content.to(queries.dtype)]), "tgt_mask": hidden,
            "refpoints_unsigmoid": torch.cat([named["refpoints_unsigmoid"], place]),
        }

    hook = detector.transformer.decoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def split(output: DetectorOutput, count: int) -> tuple[DetectorOutput, list[Proposals]]:
    """Separate the last `count` queries, the noised ones, of every decoder layer (last layer first)."""
    layers = [Proposals(output.logits, output.boxes), *output.aux]
    plain = [Proposals(p.logits[:, :-count], p.boxes[:, :-count]) for p in layers]
    rest = [Proposals(p.logits[:, -count:], p.boxes[:, -count:]) for p in layers]
    return replace(output, logits=plain[0].logits, boxes=plain[0].boxes, aux=tuple(plain[1:])), rest


def denoising_loss(layers: Sequence[Proposals], noised: NoisedBoxes, truths: Sequence[Truth],
                   known: Tensor) -> dict[str, Tensor]:
    """Losses of the noised queries, which need no matching; per layer the mean over near queries."""
    real = noised.truth >= 0
    image, query = (real & noised.near).nonzero(as_tuple=True)
    objects = list(zip(image.tolist(), noised.truth[image, query].tolist(), strict=True))
    wanted, texts = (torch.stack([getattr(truths[i], name)[t] for i, t in objects]) for name in ("boxes", "text"))
    losses: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        positive = torch.zeros_like(layer.logits, dtype=torch.float32)
        positive[image, query, texts] = 1
        logits = layer.logits.float().masked_fill(~real[..., None], -30.0)  # what fills up costs nothing
        losses |= box_losses(f"denoising{number}_", focal_loss(logits, positive, known),
                             layer.boxes[image, query], wanted)
    return losses
