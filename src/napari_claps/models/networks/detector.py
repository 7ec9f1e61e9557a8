"""Text to boxes: GroundingDINO on the features of an encoder that was already run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert
from transformers import BertModel, PreTrainedTokenizerBase

from napari_claps.errors import BundleError
from napari_claps.models.networks.clip import EncodedViews
from napari_claps.models.networks.detections import Detections, DetectorOutput, Proposals
from napari_claps.models.networks.detector_import import (
    GroundingDINO,
    NestedTensor,
    PositionEmbeddingSineHW,
    inverse_sigmoid,
)
from napari_claps.models.networks.detector_text import (
    SharedBert,
    TextFeatures,
    encode_texts,
    placeholder_bert,
    ready_text_encoder,
)
from napari_claps.models.networks.detector_transformer import RetinalTransformer, TextContrast

WIDTH = 256
"""Width of all tokens; the sine embeddings of GroundingDINO are written for it."""


@dataclass(frozen=True)
class DetectorConfig:
    """Size of the detector; every field is a plain TOML value.

    `channels` are those of the feature maps, finest first (strides 8, 16, 32).
    `queries` is the most boxes one view can have, over all texts.
    """

    channels: tuple[int, ...] = (40, 112, 320)
    queries: int = 60
    encoder_layers: int = 1
    decoder_layers: int = 2
    feedforward: int = 512
    heads: int = 8
    points: int = 4
    fusion: bool = True
    text_enhancer: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # TOML gives a list
        if len(self.channels) < 2:
            raise ValueError(f"The detector needs feature maps of at least 2 strides, not {len(self.channels)}.")
        if min(self.encoder_layers, self.decoder_layers, self.queries) < 1:
            raise ValueError("The detector needs at least one encoder layer, one decoder layer and one query.")


class RetinalDetector(GroundingDINO):
    """GroundingDINO without a backbone of its own, sharing the text encoder.

    Parameters
    ----------
    config : DetectorConfig
    text_transformer : BertModel
        Of the CLIP text tower. It is used, never trained here, and is no part
        of `head_state_dict`.
    tokenizer : PreTrainedTokenizerBase
        The fast BERT tokenizer of that tower; it must know the full stop.
    """

    specical_tokens: list[int]  # spelt so in the library

    def __init__(self, config: DetectorConfig, text_transformer: BertModel, tokenizer: PreTrainedTokenizerBase):
        transformer = RetinalTransformer(
            d_model=WIDTH,
            nhead=config.heads,
            num_queries=config.queries,
            num_encoder_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            dim_feedforward=config.feedforward,
            return_intermediate_dec=True,
            num_feature_levels=len(config.channels),
            enc_n_points=config.points,
            dec_n_points=config.points,
            learnable_tgt_init=True,
            two_stage_type="standard",
            embed_init_tgt=True,
            use_text_enhancer=config.text_enhancer,
            use_fusion_layer=config.fusion,
            use_text_cross_attention=True,
            text_dropout=0.0,
            fusion_dropout=0.0,
        )
        with ready_text_encoder(tokenizer, placeholder_bert(text_transformer.config.hidden_size)):
            super().__init__(
                _Trunk(config.channels),
                transformer,
                num_queries=config.queries,
                aux_loss=True,
                iter_update=True,
                query_dim=4,
                num_feature_levels=len(config.channels),
                nheads=config.heads,
                two_stage_type="standard",
                two_stage_bbox_embed_share=False,
                two_stage_class_embed_share=False,
            )
        self.config = config
        self.bert = SharedBert(text_transformer)
        self.position = PositionEmbeddingSineHW(WIDTH // 2, temperatureH=20, temperatureW=20, normalize=True)
        contrast = TextContrast()
        for layer in range(config.decoder_layers):
            self.class_embed[layer] = contrast  # the decoder holds the same list
        transformer.enc_out_class_embed = TextContrast()
        # A pruned vocabulary may lack "?", and then every unknown word would end a text.
        self.specical_tokens = [t for t in self.specical_tokens if t != tokenizer.unk_token_id]
        if tokenizer.convert_tokens_to_ids(".") == tokenizer.unk_token_id:
            raise BundleError("The tokenizer of the bundle does not know the full stop, which separates texts. "
                              "Install the bundle again, or export it with a vocabulary that has '.'.")
        self.bert.eval()

    def train(self, mode: bool = True) -> RetinalDetector:
        """Switch the head to training; the shared text encoder stays as it is used, without dropout."""
        super().train(mode)
        self.bert.eval()
        return self

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """Run the text encoder on the caption "text . text . ".

        Within the caption a text sees only itself, so that its features do not
        depend on what else is asked. There is no limit of 256 tokens: in the
        official model that is the width of its table of token logits, and here
        logits are per text.

        Raises
        ------
        ValueError
            If there are no texts or one has no words.
        """
        return encode_texts(texts, self.bert, self.tokenizer, self.specical_tokens)

    def forward(
        self,
        features: Sequence[Tensor],
        text: TextFeatures,
        text_mask: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> DetectorOutput:
        """Score and place the queries.

        Parameters
        ----------
        features : sequence of Tensor
            (B, C, H, W) per level of `config.channels`, finest first, of views
            of one size without padding.
        text : TextFeatures
        text_mask : Tensor, optional
            (B, T) bool, False where a text is not asked for in that image: the
            image does not see it, and its logits there mean nothing.
        cells : Tensor, optional
            (B, M) int, cells of the feature maps (all levels in one row, finest
            first) whose boxes the loss needs.

        Returns
        -------
        DetectorOutput
        """
        if tuple(f.shape[1] for f in features) != self.config.channels:
            raise ValueError(f"Feature maps with {[f.shape[1] for f in features]} channels given to a detector for "
                             f"{list(self.config.channels)}.")
        batch = features[0].shape[0]
        sources = [project(f) for project, f in zip(self.input_proj, features, strict=True)]
        positions = [self.position(NestedTensor(s, _no_padding(s))).to(s.dtype) for s in sources[1:]]
        words = self._text_dict(text, batch, text_mask)
        decoded = self.transformer(sources, positions, words, cells)
        layers = [
            Proposals(classify(state, words), (refine(state) + inverse_sigmoid(reference)).sigmoid())
            for state, reference, classify, refine in zip(
                decoded.states, decoded.references, self.class_embed, self.bbox_embed, strict=True
            )
        ]
        return DetectorOutput(
            layers[-1].logits,
            layers[-1].boxes,
            tuple(layers[:-1]),
            decoded.cell_logits,
            decoded.cell_boxes,
        )

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        text: TextFeatures,
        *,
        view_size: tuple[int, int],
        threshold: float | Sequence[float],
        overlap: float = 0.6,
    ) -> list[Detections]:
        """Boxes of each view.

        Parameters
        ----------
        features, text
            As for `forward`.
        view_size : tuple of int
            (height, width) of the view in pixels.
        threshold : float or sequence of float
            Lowest score of a box, for all texts or for each.
        overlap : float
            Of two boxes of the same text with a greater IoU the better one is kept.
        """
        output = self(features, text)
        scores = output.logits.float().sigmoid()
        height, width = view_size
        scale = scores.new_tensor([width, height, width, height])
        corners = box_convert(output.boxes.float(), "cxcywh", "xyxy").clamp(0, 1) * scale
        lowest = torch.as_tensor(threshold, dtype=scores.dtype, device=scores.device)
        found = []
        for score, box in zip(scores, corners, strict=True):
            query, index = (score >= lowest).nonzero(as_tuple=True)
            keep = batched_nms(box[query], score[query, index], index, overlap)  # sorted by score
            query, index = query[keep], index[keep]
            found.append(Detections(box[query], index, score[query, index], score.amax(0)))
        return found

    def find_boxes(self, features: EncodedViews, text: TextFeatures, *,
                   threshold: float | Sequence[float]) -> list[Detections]:
        """Boxes of each view of the encoder's features; see `detect`."""
        return self.detect(features.levels[-len(self.config.channels):], text,
                           view_size=(features.views.shape[-2], features.views.shape[-1]), threshold=threshold)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the detector without the shared text encoder."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("bert."))

    def head_state_dict(self) -> dict[str, Tensor]:
        """Weights without the shared text encoder, each once (layers share theirs)."""
        return {name: p.detach() for name, p in self.named_parameters() if not name.startswith("bert.")}

    def load_head_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of `head_state_dict`.

        Raises
        ------
        BundleError
            If names or shapes differ.
        """
        own = self.head_state_dict()
        wrong = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
        if wrong:
            raise BundleError(f"These weights are of another detector: {len(wrong)} tensors differ, first "
                              f"{wrong[0]!r}. Use the configuration they were trained with.")
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def _text_dict(self, text: TextFeatures, batch: int, text_mask: Tensor | None) -> dict[str, Tensor]:
        members = text.members
        if text_mask is None:
            text_mask = members.new_ones(batch, members.shape[0])
        # A text is hidden with its full stop, which has seen it. [CLS] and [SEP] always stay.
        block = members | members.roll(1, dims=1)
        hidden = ((~text_mask).float() @ block.float()) > 0
        encoded = self.feat_map(text.tokens)
        return {
            "encoded_text": encoded.expand(batch, -1, -1),
            "text_token_mask": ~hidden,
            "position_ids": text.positions.expand(batch, -1),
            "text_self_attention_masks": text.attention.expand(batch, -1, -1),
            "text_pooling": (members / members.sum(1, keepdim=True)).to(encoded.dtype),
            "text_mask": text_mask,
        }


class _Trunk(nn.Module):
    """Stands where the official class expects a backbone; the trunk runs outside."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.num_channels = list(channels)


def _no_padding(source: Tensor) -> Tensor:
    return torch.zeros(source.shape[0], *source.shape[-2:], dtype=torch.bool, device=source.device)
