"""The official SAM (ViT image encoder) behind the interface of our mask head: prompts are boxes and points, no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.models.bundles.checkpoint_file import count_numbered
from napari_claps.models.networks.clip import EncodedViews
from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE, MaskPrompts
from napari_claps.models.networks.segmenter import MaskPrediction, PixelMaps

PROMPTS_AT_ONCE = 32
"""A prompt takes about 30 MB in the official decoder."""

NAMES = {(768, 12): "ViT-B", (1024, 24): "ViT-L", (1280, 32): "ViT-H"}
"""Published sizes by (width, depth) of the image encoder."""


@dataclass(frozen=True)
class SamConfig:
    """Architecture of an official SAM; the defaults are ViT-B.

    Parameters
    ----------
    image_size, patch_size : int
        Side of the square that the encoder sees, and of its patches, in pixels.
    width, depth, heads, mlp_width : int
        Of the ViT.
    global_blocks : tuple of int
        Blocks that attend to the whole image; the others attend within windows.
    window : int
        Side of the windows in patches.
    dim : int
        Width of embedding and tokens.
    mask_channels : int
        Of the convolutions that read a given mask.
    decoder_depth, decoder_heads, decoder_mlp : int
        Of the two-way transformer.
    masks : int
        Masks per ambiguous prompt, besides the single one.
    """

    image_size: int = 1024
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    dim: int = 256
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    masks: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_blocks", tuple(self.global_blocks))  # TOML gives a list

    @property
    def name(self) -> str:
        """Such as "ViT-B"; the sizes if it is none of the published ones."""
        return NAMES.get((self.width, self.depth), f"ViT of width {self.width} and depth {self.depth}")

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> SamConfig:
        """Read the architecture from the shapes of a published checkpoint.

        The number of heads of the mask decoder cannot be seen in them; it is 8 in all published ones.

        Raises
        ------
        KeyError
            If a tensor is missing.
        """
        _, grid, _, width = weights["image_encoder.pos_embed"].shape
        patch = weights["image_encoder.patch_embed.proj.weight"].shape[-1]
        depth = count_numbered(weights, "image_encoder.blocks.")
        positions = [weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
        whole = 2 * grid - 1
        windows = [length for length, _ in positions if length != whole]
        return cls(
            image_size=grid * patch, patch_size=patch, width=width, depth=depth, heads=width // positions[0][1],
            mlp_width=weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
            global_blocks=tuple(i for i, (length, _) in enumerate(positions) if length == whole),
            window=(windows[0] + 1) // 2 if windows else 0,
            dim=weights["mask_decoder.iou_token.weight"].shape[1],
            mask_channels=weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            decoder_depth=count_numbered(weights, "mask_decoder.transformer.layers."),
            decoder_mlp=weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            masks=weights["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        )


class OfficialSam(Sam):
    """``segment_anything``'s SAM with the two methods of our mask head, `decode_pixels` and `predict_masks`.

    State dict and weights are those of the published checkpoints.
    """

    def __init__(self, config: SamConfig) -> None:
        grid = config.image_size // config.patch_size
        super().__init__(
            image_encoder=ImageEncoderViT(
                img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.width, depth=config.depth,
                num_heads=config.heads, mlp_ratio=config.mlp_width / config.width, out_chans=config.dim,
                norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=config.window,
                global_attn_indexes=config.global_blocks),
            prompt_encoder=PromptEncoder(
                embed_dim=config.dim, image_embedding_size=(grid, grid), mask_in_chans=config.mask_channels,
                input_image_size=(config.image_size, config.image_size)),
            mask_decoder=MaskDecoder(
                transformer_dim=config.dim, num_multimask_outputs=config.masks, iou_head_hidden_dim=config.dim,
                transformer=TwoWayTransformer(depth=config.decoder_depth, embedding_dim=config.dim,
                                              num_heads=config.decoder_heads, mlp_dim=config.decoder_mlp)))
        self.config = config

    def decode_pixels(self, features: EncodedViews, modality: str = "") -> PixelMaps:
        """Run the image encoder, once for a view however often it is asked; it is the same for every modality.

        The maps have an embedding and no pixel features (zero channels): these only say the size of the masks.
        """
        if "sam" not in features.memo:
            views = features.views
            _, _, height, width = views.shape
            rows, columns = self._inner_size((height, width))
            image = F.interpolate(views, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
            image = (image * 255 - self.pixel_mean) / self.pixel_std
            side = self.config.image_size
            embedding = self.image_encoder(F.pad(image, (0, side - columns, 0, side - rows)))
            features.memo["sam"] = PixelMaps(embedding.float(), views.new_empty(
                len(views), 0, height // PIXEL_STRIDE, width // PIXEL_STRIDE))
        return features.memo["sam"]

    def predict_masks(self, maps: PixelMaps, prompts: MaskPrompts) -> MaskPrediction:
        """Predict the masks of all prompts, at half the resolution of the view.

        Texts are ignored. A box, or several points, gives SAM's single mask; a single point is ambiguous, and gives
        the best of its masks by estimated IoU. The presence is that IoU, because SAM has no score of its own for it;
        a prompt without box and point is absent.
        """
        size = tuple(maps.pixels.shape[-2:])
        view_size = (size[0] * PIXEL_STRIDE, size[1] * PIXEL_STRIDE)
        count = len(prompts.view)
        logits = maps.embedding.new_full((count, *size), -20.0)
        iou = maps.embedding.new_zeros(count)
        for rows in _alike(prompts):
            for part in rows.split(PROMPTS_AT_ONCE):
                logits[part], iou[part] = self._predict(maps, prompts, part, view_size)
        return MaskPrediction(logits, iou, torch.logit(iou.clamp(1e-6, 1 - 1e-6)))

    def _predict(self, maps: PixelMaps, prompts: MaskPrompts, rows: Tensor,
                 view_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits and IoU of some prompts for the same view, all with a box or all without."""
        inner = self._inner_size(view_size)
        scale = maps.embedding.new_tensor([inner[1] / view_size[1], inner[0] / view_size[0]])
        boxes = points = None
        single = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if prompts.boxes is not None and torch.isfinite(prompts.boxes[rows[0]]).all():
            boxes = prompts.boxes[rows] * scale.repeat(2)
            single[:] = True
        if prompts.points is not None and prompts.point_labels is not None:
            labels = prompts.point_labels[rows]
            points = (torch.nan_to_num(prompts.points[rows]) * scale, labels)
            single |= (labels >= 0).sum(1) > 1
        with torch.autocast(rows.device.type, enabled=False):  # half precision would move a box by pixels
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=None)
            position = self.prompt_encoder.get_dense_pe()
        view = int(prompts.view[rows[0]])
        low, quality = self.mask_decoder.predict_masks(
            image_embeddings=maps.embedding[view:view + 1], image_pe=position,
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense)
        low, quality = low.float(), quality.float()
        best = torch.where(single, 0, 1 + quality[:, 1:].argmax(1))
        every = torch.arange(len(rows), device=rows.device)
        full = self.postprocess_masks(low[every, best][:, None], inner, tuple(maps.pixels.shape[-2:]))
        return full[:, 0], quality[every, best]

    def _inner_size(self, view_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the view within the square that the encoder sees."""
        scale = self.config.image_size / max(view_size)
        return int(view_size[0] * scale + 0.5), int(view_size[1] * scale + 0.5)


def _alike(prompts: MaskPrompts) -> Sequence[Tensor]:
    """Row numbers of the prompts that can go together: of the same view, all with a box or all with points only."""
    count = len(prompts.view)
    nothing = torch.zeros(count, dtype=torch.bool, device=prompts.view.device)
    boxed = nothing if prompts.boxes is None else torch.isfinite(prompts.boxes).all(1)
    pointed = nothing if prompts.point_labels is None else (prompts.point_labels >= 0).any(1)
    groups = [(prompts.view == view) & kind
              for view in prompts.view.unique() for kind in (boxed, pointed & ~boxed)]
    return [group.nonzero()[:, 0] for group in groups if group.any()]
