"""GroundingDINO's transformer, made cheap on a CPU and safe for views of any size.

The layers are the official ones. Three things differ:

* The encoder updates only the coarse levels, which attend to all levels, and
  the finest level, three quarters of all cells, gets its context from them
  through a small bottleneck. This is the idea of Lite DETR (arXiv 2303.07335),
  and three to four times as fast.
* The first stage proposes squares of a fixed size in pixels. The official code
  takes fractions of the view, drops those near the border, and fails on a view
  with fewer cells than queries.
* Scores are those of whole texts, not of single tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.models.networks.detector_import import ContrastiveEmbed, Transformer, get_sine_pos_embed

ANCHOR_CELLS = 2.0
"""Side of a proposal before it is refined, in cells of its level (stride 8: 16 pixels)."""

PRIOR = 0.01
"""Score of every text everywhere before training, as in the focal loss paper (arXiv 1708.02002)."""


class TextContrast(ContrastiveEmbed):
    """Contrast of queries with whole texts, with a learned scale and offset.

    The embedding of a text is the mean of its tokens: the class texts share
    most of their words (the modality signature), so the best single token,
    which the official model takes at inference, would be the same word for
    several texts. Training and inference use the mean alike.

    The dot product is divided by sqrt(256), and an offset starts at the log
    odds of `PRIOR`, as MM-Grounding-DINO does (arXiv 2401.02361): from there a
    short training converges, from raw dot products near +-256 it does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.tensor(-math.log((1 - PRIOR) / PRIOR)))

    def forward(self, x: Tensor, text_dict: dict[str, Tensor]) -> Tensor:
        """Logits (B, N, T) of queries `x` (B, N, D) for the T texts of ``text_dict``."""
        texts = text_dict["text_pooling"] @ text_dict["encoded_text"]  # (B, T, D)
        return x @ texts.transpose(1, 2) * (self.log_scale.exp() / math.sqrt(x.shape[-1])) + self.offset


class FineLevel(nn.Module):
    """Context for the finest level: the next coarser one is added, then a bottleneck mixes neighbours."""

    def __init__(self, width: int, inner: int = 64) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, inner, 3, padding=1), nn.ReLU(),
            nn.Conv2d(inner, width, 1),
        )
        self.norm = nn.GroupNorm(32, width)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return (B, D, H, W) for `fine` of that shape and `coarse` (B, D, H / 2, W / 2)."""
        mixed = fine + F.interpolate(coarse, fine.shape[-2:])
        return self.norm(mixed + self.bottleneck(mixed))


@dataclass(frozen=True, eq=False)
class Decoded:
    """States of the decoder and proposals of the encoder.

    `states` and `references` have one entry per decoder layer: (B, Q, D), and
    the boxes (B, Q, 4) that the layer started from, cxcywh in [0, 1].
    `cell_logits` (B, N, T) are those of all N cells of the feature maps, and
    `cell_boxes` (B, M, 4) the boxes of the M cells that were asked for.
    """

    states: list[Tensor]
    references: list[Tensor]
    cell_logits: Tensor
    cell_boxes: Tensor


def cell_centres(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Centres (N, 2) of all cells of all levels as (x, y) in [0, 1]."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
        centres.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], -1))
    return torch.cat(centres)


def anchors(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Boxes (N, 4), cxcywh in [0, 1], around all cells of all levels.

    They are square in pixels and the same whatever the size of the view; the
    official ones are a fraction of the view, and flat in a flat view.
    """
    sides = [
        like.new_tensor([ANCHOR_CELLS / width, ANCHOR_CELLS / height], dtype=torch.float32).expand(height * width, 2)
        for height, width in shapes
    ]
    return torch.cat([cell_centres(shapes, like), torch.cat(sides)], -1).clamp(1e-3, 0.95)


class RetinalTransformer(Transformer):
    """The official two-stage transformer, for equal views without padding."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.fine_level = FineLevel(self.d_model)

    def forward(
        self,
        sources: Sequence[Tensor],
        positions: Sequence[Tensor],
        text: dict[str, Tensor],
        cells: Tensor | None = None,
    ) -> Decoded:
        """Propose, choose and refine.

        Parameters
        ----------
        sources : sequence of Tensor
            (B, D, H, W) per level, finest first.
        positions : sequence of Tensor
            Their positional encodings, without that of the finest level.
        text : dict
            The official keys ``encoded_text`` (B, L, D), ``text_token_mask``
            (B, L), ``position_ids`` and ``text_self_attention_masks``; and
            ``text_pooling`` (T, L), rows that average the tokens of a text, and
            ``text_mask`` (B, T), False where a text is not asked for.
            ``encoded_text`` is replaced by the text that has seen the image.
        cells : Tensor, optional
            (B, M) numbers of the cells whose boxes are wanted, for the loss.
        """
        batch, width = sources[0].shape[:2]
        shapes = [(source.shape[-2], source.shape[-1]) for source in sources]
        levels = torch.as_tensor(shapes, dtype=torch.long, device=sources[0].device)
        starts = torch.cat((levels.new_zeros(1), levels.prod(1).cumsum(0)[:-1]))
        memory = self._encode(sources, positions, text, levels, starts)

        proposal = self.enc_output_norm(self.enc_output(memory))
        logits = self.enc_out_class_embed(proposal, text)
        best = logits.detach().masked_fill(~text["text_mask"][:, None], -torch.inf).amax(-1)
        queries = min(self.num_queries, best.shape[1])
        chosen = best.topk(queries, dim=1).indices
        offsets = torch.logit(anchors(shapes, memory)).expand(batch, -1, -1)

        # Boxes of all cells would cost as much as the whole decoder.
        def place(index: Tensor) -> Tensor:
            return self.enc_out_bbox_embed(_gather(proposal, index)) + _gather(offsets, index)

        with torch.no_grad():
            begin = place(chosen)
        cell_boxes = place(chosen[:, :0] if cells is None else cells).sigmoid()
        states, references = self.decoder(
            tgt=self.tgt_embed.weight[:queries, None].expand(-1, batch, width),
            memory=memory.transpose(0, 1),
            refpoints_unsigmoid=begin.transpose(0, 1),
            level_start_index=starts,
            spatial_shapes=levels,
            valid_ratios=memory.new_ones(batch, len(shapes), 2),
            memory_text=text["encoded_text"],
            text_attention_mask=~text["text_token_mask"],
        )
        return Decoded(states, references[:-1], logits, cell_boxes)

    def _encode(
        self, sources: Sequence[Tensor], positions: Sequence[Tensor], text: dict[str, Tensor],
        levels: Tensor, starts: Tensor,
    ) -> Tensor:
        """Features (B, N, D) of all cells; ``encoded_text`` of `text` is replaced."""
        shapes = [(int(h), int(w)) for h, w in levels]
        batch = sources[0].shape[0]
        fine = _flat(sources[0]) + self.level_embed[0]
        coarse = torch.cat([_flat(source) for source in sources[1:]], 1)
        position = torch.cat([_flat(p) + e for p, e in zip(positions, self.level_embed[1:], strict=True)], 1)
        # A coarse cell looks around its own centre, in every level.
        centres = cell_centres(shapes[1:], coarse)[None, :, None].expand(batch, -1, len(shapes), -1)
        words, hidden = text["encoded_text"], ~text["text_token_mask"]
        word_positions = get_sine_pos_embed(text["position_ids"][..., None], num_pos_feats=256, exchange_xy=False)
        for index, layer in enumerate(self.encoder.layers):
            if self.encoder.fusion_layers:
                coarse, words = self.encoder.fusion_layers[index](v=coarse, l=words, attention_mask_l=hidden)
            if self.encoder.text_layers:
                words = self.encoder.text_layers[index](
                    src=words.transpose(0, 1), src_mask=~text["text_self_attention_masks"],
                    src_key_padding_mask=hidden, pos=word_positions.transpose(0, 1),
                ).transpose(0, 1)
            seen = layer.self_attn(
                query=coarse + position, reference_points=centres, value=torch.cat([fine, coarse], 1),
                spatial_shapes=levels, level_start_index=starts,
            )
            coarse = layer.forward_ffn(layer.norm1(coarse + seen))
        text["encoded_text"] = words
        height, width = shapes[1]
        next_level = coarse[:, :height * width].transpose(1, 2).unflatten(2, (height, width))
        fine_map = fine.transpose(1, 2).unflatten(2, shapes[0])
        return torch.cat([_flat(self.fine_level(fine_map, next_level)), coarse], 1)


def _flat(source: Tensor) -> Tensor:
    return source.flatten(2).transpose(1, 2)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, M, D) of `values` (B, N, D) at `index` (B, M)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
