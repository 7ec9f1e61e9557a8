"""The official GroundingDINO (Swin backbone, BERT) behind the interface of our detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert
from transformers import AutoTokenizer, BertConfig, BertModel

from napari_claps.errors import BundleError
from napari_claps.models.networks.clip import EncodedViews
from napari_claps.models.networks.detections import Detections
from napari_claps.models.networks.detector import WIDTH
from napari_claps.models.networks.detector_import import (
    GroundingDINO,
    Joiner,
    NestedTensor,
    PositionEmbeddingSineHW,
    SwinTransformer,
    Transformer,
    generate_masks_with_special_tokens_and_transfer_map,
)
from napari_claps.models.networks.detector_text import SharedBert, clean_texts, ready_text_encoder
from napari_claps.models.networks.dino_config import HEADS, DinoConfig

MAX_TOKENS = 256
"""Longest caption: the width of the table of token logits in the official model."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Captions:
    """Texts as GroundingDINO reads them: in as few captions as hold them.

    Parameters
    ----------
    texts : tuple of str
        The T texts.
    captions : tuple of str
        "text . text ."
    members : tuple of Tensor
        Per caption (t, L) bool, the tokens of each of its texts, which follow those of the caption before.
    """

    texts: tuple[str, ...]
    captions: tuple[str, ...]
    members: tuple[Tensor, ...]


class EncodedOnce(Joiner):
    """Backbone and positions, which run once for a view although it is asked with several captions."""

    _kept: tuple[object, tuple[list[NestedTensor], list[Tensor]]] | None = None

    def forward(self, samples: NestedTensor) -> tuple[list[NestedTensor], list[Tensor]]:
        """As the official class; the lists are new each time, because the caller appends to them."""
        kept = self._kept
        if kept is None or kept[0] is not samples:
            kept = (samples, super().forward(samples))
            self._kept = kept
        features, positions = kept[1]
        return list(features), list(positions)

    def forget(self) -> None:
        """Let go of the last view."""
        self._kept = None


class OfficialDetector(nn.Module):
    """``groundingdino``'s GroundingDINO with the methods of our detector, `encode_text` and `find_boxes`.

    Parameters
    ----------
    config : DinoConfig
    text_folder : path
        With the ``config.json`` and the tokenizer of a BERT, such as bert-base-uncased. Its weights are part of the
        checkpoint of GroundingDINO.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: DinoConfig, text_folder: str | Path) -> None:
        super().__init__()
        self.config = config
        tokenizer = AutoTokenizer.from_pretrained(str(text_folder), local_files_only=True)
        bert = BertModel(BertConfig.from_pretrained(str(text_folder), local_files_only=True))
        last = len(config.depths)
        swin = SwinTransformer(embed_dim=config.width, depths=list(config.depths), num_heads=list(config.heads),
                               window_size=config.window, out_indices=tuple(range(1, last)))
        backbone = EncodedOnce(swin, PositionEmbeddingSineHW(WIDTH // 2, temperatureH=20, temperatureW=20,
                                                             normalize=True))
        backbone.num_channels = swin.num_features[1:]
        transformer = Transformer(
            d_model=WIDTH, nhead=HEADS, num_queries=config.queries, num_encoder_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers, dim_feedforward=config.feedforward,
            return_intermediate_dec=True, num_feature_levels=config.levels, enc_n_points=config.points,
            dec_n_points=config.points, learnable_tgt_init=True, two_stage_type="standard", embed_init_tgt=True,
            use_text_enhancer=True, use_fusion_layer=True, use_text_cross_attention=True, text_dropout=0.0,
            fusion_dropout=0.0, fusion_droppath=0.1)
        with ready_text_encoder(tokenizer, bert):
            self.model = GroundingDINO(
                backbone, transformer, num_queries=config.queries, aux_loss=True, iter_update=True, query_dim=4,
                num_feature_levels=config.levels, nheads=HEADS, two_stage_type="standard",
                two_stage_bbox_embed_share=False, two_stage_class_embed_share=False)
        self.model.bert = SharedBert(bert)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def encode_text(self, texts: Sequence[str]) -> Captions:
        """Put texts into captions of at most `MAX_TOKENS` tokens; GroundingDINO would cut a longer one silently.

        Raises
        ------
        ValueError
            If there are no texts or one has no words.
        """
        tokenizer = self.model.tokenizer
        groups: list[list[str]] = [[]]
        room = MAX_TOKENS - 2
        for text in clean_texts([t.lower() for t in texts]):
            tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:MAX_TOKENS - 3]
            length = len(tokens) + 1
            if length > room and groups[-1]:
                groups.append([])
                room = MAX_TOKENS - 2
            groups[-1].append(text)
            room -= length
        captions = tuple(" . ".join(group) + " ." for group in groups)
        return Captions(tuple(texts), captions, tuple(self._members(c, len(g)) for c, g in
                                                      zip(captions, groups, strict=True)))

    def weights(self) -> dict[str, Tensor]:
        """Parameters under their published names, each once (layers share theirs)."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take what `weights` gave, or the weights of a published checkpoint; buffers are made anew.

        Raises
        ------
        BundleError
            If a tensor is missing or has another shape.
        """
        own = self.weights()
        wrong = [n for n in own if n not in weights] or [n for n in own if own[n].shape != weights[n].shape]
        if wrong:
            raise BundleError(f"These weights are of another GroundingDINO, or of another BERT than the folder of the "
                              f"text encoder: {len(wrong)} tensors differ, first {wrong[0]!r}.")
        for name, parameter in own.items():
            parameter.copy_(weights[name])

    def _members(self, caption: str, count: int) -> Tensor:
        tokenized = self.model.tokenizer([caption], return_tensors="pt", verbose=False)
        _, _, members = generate_masks_with_special_tokens_and_transfer_map(
            tokenized, self.model.specical_tokens, self.model.tokenizer)
        found = members[0][:, :MAX_TOKENS].bool()
        if len(found) < count or not found[:count].any(1).all():
            raise ValueError(f"The tokenizer splits these texts at other places than their ends: {caption!r}.")
        return found[:count].to(self.mean.device)

    @torch.no_grad()
    def find_boxes(self, features: EncodedViews, text: Captions, *,
                   threshold: float | Sequence[float]) -> list[Detections]:
        """Boxes of each view, as GroundingDINO decides: by the best token of a box, then of each text.

        Parameters
        ----------
        features : EncodedViews
            Only their `views` are read.
        text : Captions
        threshold : float or sequence of float
            Box threshold, for all texts or for each: lowest score of a box's best token.

        Raises
        ------
        BundleError
            If the network gives values that are no numbers.
        """
        height, width = features.views.shape[-2:]
        samples = self._scaled(features.views)
        device = features.views.device
        corner_scale = torch.tensor([width, height, width, height], device=device)
        lowest = torch.as_tensor(threshold, dtype=torch.float32, device=device).expand(len(text.texts))
        parts: list[list[Detections]] = [[] for _ in features.views]
        first = 0
        try:
            for caption, members in zip(text.captions, text.members, strict=True):
                output = self.model(samples, captions=[caption] * len(features.views))
                scores, boxes = self._scored(output, members)
                for view, (score, box) in enumerate(zip(scores, boxes * corner_scale, strict=True)):
                    best = score.amax(1, keepdim=True)
                    wanted = (best >= lowest[first:first + len(members)]) & (score >= self.config.text_threshold)
                    query, index = wanted.nonzero(as_tuple=True)
                    keep = batched_nms(box[query], score[query, index], index, self.config.overlap)
                    query, index = query[keep], index[keep]
                    parts[view].append(Detections(box[query], index + first, score[query, index], score.amax(0)))
                first += len(members)
        finally:
            self.model.backbone.forget()
        return [_joined(found) for found in parts]

    @staticmethod
    def _scored(output: Mapping[str, Tensor], members: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, Q, t) of the texts of a caption, each of its best token, and boxes (B, Q, 4), XYXY in [0, 1]."""
        tokens = output["pred_logits"].float().sigmoid()[..., :members.shape[1]]
        boxes = output["pred_boxes"].float()
        if not (torch.isfinite(boxes).all() and torch.isfinite(tokens).all()):
            raise BundleError("GroundingDINO gave values that are no numbers (NaN). Its weights are damaged, or "
                              "half precision is too coarse for them: set dtype = \"float32\" in bundle.toml.")
        return (torch.stack([tokens[..., m].amax(-1) for m in members], -1),
                box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1))

    def _scaled(self, views: Tensor) -> NestedTensor:
        height, width = views.shape[-2:]
        scale = min(self.config.short_side / min(height, width), self.config.long_side / max(height, width))
        size = (max(32, round(height * scale)), max(32, round(width * scale)))
        image = F.interpolate(views, size, mode="bilinear", align_corners=False, antialias=True)
        padding = torch.zeros(len(views), *size, dtype=torch.bool, device=views.device)
        return NestedTensor((image - self.mean) / self.std, padding)


def _joined(found: Sequence[Detections]) -> Detections:
    """Detections of several captions, best first."""
    scores = torch.cat([d.scores for d in found])
    order = scores.argsort(descending=True)
    return Detections(torch.cat([d.boxes for d in found])[order], torch.cat([d.text for d in found])[order],
                      scores[order], torch.cat([d.presence for d in found]))
