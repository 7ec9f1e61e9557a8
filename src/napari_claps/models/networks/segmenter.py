"""The mask head: segment-anything's ``Sam`` on the shared encoder, prompted by text, boxes and points.

A U-Net decoder turns the trunk's features into a stride-16 embedding and
stride-2 pixel features, once per view; the modality says which, where some have
one of their own. SAM's two-way transformer updates the
mask token of each prompt on the embedding; the mask is the token's
hypernetwork times the pixel features, added to SAM's own low-resolution mask,
which localises it. The text also classifies the pixel features by itself, without
the transformer: each text has weights of its own, as each class of a U-Net has,
so that texts that are alike can part. Another prompt costs only the transformer
and two products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.models.networks.clip import EncodedViews, ImageFeatures, RetinalClip
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE, MaskPrompts
from napari_claps.models.networks.own_trunk import OwnTrunk
from napari_claps.models.networks.pixel_decoder import PixelDecoder, PixelMaps, SegmenterConfig
from napari_claps.models.networks.region_weights import RegionWeights

EMBEDDING_STRIDE = 16


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """Mask logits (P, H/2, W/2), estimated IoU (P,) and logit of the target's presence (P,)."""

    logits: Tensor
    iou: Tensor
    presence: Tensor


class SamImageEncoder(nn.Module):
    """Image encoder in the form that ``Sam`` expects, on the trunk of the CLIP model."""

    img_size = 512

    def __init__(self, clip: RetinalClip, config: SegmenterConfig) -> None:
        super().__init__()
        self.clip = clip
        self.pixel_decoder = PixelDecoder(clip.channels, config)
        self.own_pixel_decoders = nn.ModuleDict({m: PixelDecoder(clip.channels, config) for m in config.own_pixels})
        self.own_trunks = nn.ModuleDict({m: OwnTrunk(clip) for m in config.own_trunks})

    def forward(self, views: Tensor) -> Tensor:
        """Embedding (B, dim, H/16, W/16) of views (B, 3, H, W) in [0, 1]."""
        return self.pixel_decoder(self.clip.encode_image(views)).embedding


class TextPromptEncoder(PromptEncoder):
    """SAM's prompt encoder for views of any size, with text tokens.

    Every prompt gets the same number of tokens, so that prompts of different
    kinds share a batch; what is missing is SAM's *not a point*, or a learned
    *no text*.
    """

    def __init__(self, config: SegmenterConfig, text_dim: int) -> None:
        size = SamImageEncoder.img_size
        grid = size // EMBEDDING_STRIDE
        super().__init__(embed_dim=config.dim, image_embedding_size=(grid, grid), input_image_size=(size, size),
                         mask_in_chans=16)
        self.text_projection = nn.Sequential(
            nn.Linear(text_dim, config.dim), nn.GELU(), nn.Linear(config.dim, config.text_tokens * config.dim))
        # Class texts share most of their words, so their embeddings are nearly parallel; what tells targets apart
        # is the rest, which has to be as large as the other tokens to be heard.
        self.register_buffer("text_mean", torch.zeros(text_dim))
        self.register_buffer("text_std", torch.ones(text_dim))
        self.no_text = nn.Parameter(torch.zeros(config.text_tokens, config.dim))
        self.pixel_weights: nn.Linear | None = None
        if config.text_weights:
            self.pixel_weights = nn.Linear(text_dim, config.widths[0] + 1)
            # Small, so that a head that was trained without them starts nearly as it was; not zero, because equal
            # weights would get equal gradients.
            nn.init.normal_(self.pixel_weights.weight, std=0.1 / text_dim ** 0.5)
            nn.init.zeros_(self.pixel_weights.bias)
            self.no_text_weights = nn.Parameter(torch.zeros(config.widths[0] + 1))
        self.no_text_regions: RegionWeights | None = None
        if config.region_weights:
            self.no_text_regions = RegionWeights(config.widths[0])

    def fit_text(self, texts: Tensor) -> None:
        """Take mean and spread of the class texts' embeddings (N, D), by which every text is standardised."""
        self.text_mean.copy_(texts.mean(0))
        self.text_std.copy_(texts.std(0).clamp(min=1e-4))

    def encode(self, prompts: MaskPrompts, view_size: tuple[int, int]) -> Tensor:
        """Tokens (P, N, dim) of the prompts for views of `view_size` (height, width); the text comes last."""
        count = len(prompts.view)
        tokens = []
        if prompts.points is not None and prompts.point_labels is not None:
            code = self.pe_layer.forward_with_coords(prompts.points + 0.5, view_size)
            kinds = torch.stack([self.not_a_point_embed.weight[0], self.point_embeddings[0].weight[0],
                                 self.point_embeddings[1].weight[0]])
            known = (prompts.point_labels >= 0)[..., None]
            tokens.append(torch.where(known, code, 0.0) + kinds[prompts.point_labels.long() + 1])
        missing = self.not_a_point_embed.weight.expand(count, 2, -1)
        if prompts.boxes is None:
            tokens.append(missing)
        else:
            known = torch.isfinite(prompts.boxes).all(1)
            corners = torch.nan_to_num(prompts.boxes).reshape(-1, 2, 2)
            code = self.pe_layer.forward_with_coords(corners, view_size)
            code = code + torch.cat([self.point_embeddings[2].weight, self.point_embeddings[3].weight])
            tokens.append(torch.where(known[:, None, None], code, missing))
        absent = self.no_text.expand(count, -1, -1)
        if prompts.text is None:
            tokens.append(absent)
        else:
            known = torch.isfinite(prompts.text).all(1)
            words = self.text_projection(self._standard(prompts.text)).reshape(absent.shape)
            tokens.append(torch.where(known[:, None, None], words, absent))
        return torch.cat(tokens, dim=1)

    def classify(self, prompts: MaskPrompts, pixels: Tensor) -> Tensor | None:
        """Weights (P, p + 1) of the texts for the pixel features (B, p, h, w) and 1.

        Where there is no text, they come from what lies in the box or at the point.
        """
        if self.pixel_weights is None:
            return None
        worded = (torch.zeros(len(prompts.view), dtype=torch.bool, device=pixels.device) if prompts.text is None
                  else torch.isfinite(prompts.text).all(1))
        weights = self.no_text_weights.expand(len(prompts.view), -1)
        if prompts.text is not None:
            weights = torch.where(worded[:, None], self.pixel_weights(self._standard(prompts.text)), weights)
        if self.no_text_regions is not None and not bool(worded.all()):
            bare = (~worded).nonzero()[:, 0]
            regions = prompts.regions(pixels.shape[-2], pixels.shape[-1])[bare]
            weights = weights.index_add(0, bare, self.no_text_regions(pixels, prompts.view[bare], regions))
        return weights

    def _standard(self, texts: Tensor) -> Tensor:
        """Texts (P, D) with the mean and spread of the class texts taken out; NaN becomes the mean."""
        return (torch.where(torch.isfinite(texts), texts, self.text_mean) - self.text_mean) / self.text_std


class TextMaskDecoder(MaskDecoder):
    """SAM's mask decoder with high-resolution pixel features and a presence score."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(
            transformer_dim=config.dim, num_multimask_outputs=0, iou_head_hidden_dim=config.dim,
            transformer=TwoWayTransformer(depth=config.depth, embedding_dim=config.dim, num_heads=config.heads,
                                          mlp_dim=config.mlp),
        )
        self.pixel_hypernetwork = MLP(config.dim, config.dim, config.widths[0] + 1, 3)
        self.presence_head = MLP(config.dim, config.dim, 1, 2)

    def predict(self, maps: PixelMaps, position: Tensor, dense: Tensor, tokens: Tensor, view: Tensor,
                classes: Tensor | None = None) -> MaskPrediction:
        """Predict one mask per prompt.

        Parameters
        ----------
        maps : PixelMaps
            Of B views.
        position : Tensor
            (1, dim, h, w) positional encoding.
        dense : Tensor
            (1, dim, 1, 1) embedding of "no mask given".
        tokens : Tensor
            (P, N, dim) prompt tokens.
        view : Tensor
            (P,) view of each prompt.
        classes : Tensor, optional
            (P, p + 1) weights of the texts for the pixel features and 1.
        """
        count = len(tokens)
        # The text also enters the output tokens themselves: the shortest way from the words to the mask.
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]) + tokens[:, -1:]
        source = maps.embedding[view] + dense
        _, channels, height, width = source.shape
        updated, source = self.transformer(source, position.expand(count, -1, -1, -1), torch.cat([own, tokens], dim=1))
        iou_token, mask_token = updated[:, 0], updated[:, 1]
        source = source.transpose(1, 2).reshape(count, channels, height, width)
        upscaled = self.output_upscaling(source)
        coarse = torch.einsum("pc,pchw->phw", self.output_hypernetworks_mlps[0](mask_token), upscaled)
        size = maps.pixels.shape[-2:]
        coarse = F.interpolate(coarse[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        weights = self.pixel_hypernetwork(mask_token)
        if classes is not None:
            weights = weights + classes
        fine = torch.empty_like(coarse)
        for i in view.unique().tolist():
            mine = view == i
            fine[mine] = torch.einsum("pc,chw->phw", weights[mine, :-1], maps.pixels[i])
        logits = coarse + fine + weights[:, -1, None, None]
        return MaskPrediction(logits, self.iou_prediction_head(iou_token)[:, 0], self.presence_head(iou_token)[:, 0])


class RetinalSam(Sam):
    """``Sam`` with text prompts, on the encoder of a `RetinalClip`."""

    def __init__(self, clip: RetinalClip, config: SegmenterConfig) -> None:
        super().__init__(image_encoder=SamImageEncoder(clip, config),
                         prompt_encoder=TextPromptEncoder(config, clip.config.embed_dim),
                         mask_decoder=TextMaskDecoder(config), pixel_mean=[0, 0, 0], pixel_std=[1, 1, 1])
        self.config = config

    def decode_pixels(self, features: EncodedViews, modality: str) -> PixelMaps:
        """Run the pixel decoder of a modality, once for a view however often it is asked."""
        encoder = self.image_encoder
        own = modality in encoder.own_pixel_decoders
        key = f"sam {modality}" if own else "sam"
        if key not in features.memo:
            decoder = encoder.own_pixel_decoders[modality] if own else encoder.pixel_decoder
            read = features
            if modality in encoder.own_trunks:
                read = encoder.own_trunks[modality](features, encoder.clip)
            features.memo[key] = decoder(read)
        return features.memo[key]

    def decode_mixed(self, features: ImageFeatures, modalities: Sequence[str]) -> PixelMaps:
        """Run the pixel decoders for views of several modalities, one for each view."""
        rows: dict[str, list[int]] = {}
        for row, modality in enumerate(modalities):
            rows.setdefault(modality if modality in self.config.own_pixels else "", []).append(row)
        if len(rows) == 1:
            return self.decode_pixels(features, next(iter(rows)))
        parts = [self.decode_pixels(features.of(mine), modality) for modality, mine in rows.items()]
        order = torch.tensor([row for mine in rows.values() for row in mine]).argsort().to(features.views.device)
        return PixelMaps(torch.cat([p.embedding for p in parts])[order], torch.cat([p.pixels for p in parts])[order])

    def predict_masks(self, maps: PixelMaps, prompts: MaskPrompts) -> MaskPrediction:
        """Predict the masks of all prompts, at half the resolution of the view."""
        height, width = maps.pixels.shape[-2:]
        encoder = self.prompt_encoder
        with torch.autocast(maps.pixels.device.type, enabled=False):  # half precision would move a box by pixels
            tokens = encoder.encode(prompts, (height * PIXEL_STRIDE, width * PIXEL_STRIDE))
            position = encoder.pe_layer(tuple(maps.embedding.shape[-2:]))[None]
            classes = encoder.classify(prompts, maps.pixels.float())
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return self.mask_decoder.predict(maps, position, dense, tokens, prompts.view, classes)

    def head_state_dict(self) -> dict[str, Tensor]:
        """Weights without the shared encoder."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("image_encoder.clip.")}

    def load_head_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `head_state_dict` gave; all names must fit."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [n for n in missing if not n.startswith("image_encoder.clip.")]
        if missing or unexpected:
            raise RuntimeError(f"segmenter: missing {missing[:3]}, unexpected {unexpected[:3]}")
