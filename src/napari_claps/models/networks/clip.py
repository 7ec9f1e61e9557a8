"""The retinal CLIP: an open_clip model whose image tower serves all three heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import BertModel

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the feature maps of a timm trunk, finest first."""


@dataclass(frozen=True)
class ClipConfig:
    """Architecture of the CLIP model.

    Parameters
    ----------
    trunk : str
        Name of a timm model with five feature levels (strides 2 to 32).
    embed_dim : int
        Length of the joint image-text embedding.
    """

    trunk: str = "tf_efficientnet_lite0"
    embed_dim: int = 256


class EncodedViews(Protocol):
    """What heads read of a batch of views: `ImageFeatures` of the shared encoder, or `ViewFeatures` of several."""

    @property
    def image(self) -> Tensor: ...
    @property
    def levels(self) -> tuple[Tensor, ...]: ...
    @property
    def embedding(self) -> Tensor | None: ...
    @property
    def views(self) -> Tensor: ...
    @property
    def memo(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """One pass of the image encoder over a batch of views.

    Parameters
    ----------
    image : Tensor
        (B, 3, H, W) the normalised views themselves, for heads that need single pixels.
    levels : tuple of Tensor
        (B, C, H / s, W / s) for each stride s of `STRIDES`; none where the trunk was not run (`RetinalClip.normalise`).
    embedding : Tensor or None
        (B, D) unit vectors in the joint embedding; None likewise.
    views : Tensor
        (B, 3, H, W) the views in [0, 1], for heads with an encoder of their own.
    memo : dict
        What a head wants to compute only once for these views.
    """

    image: Tensor
    levels: tuple[Tensor, ...]
    embedding: Tensor | None
    views: Tensor
    memo: dict[str, Any] = field(default_factory=dict)

    def of(self, rows: Sequence[int]) -> ImageFeatures:
        """Features of some of the views."""
        which = list(rows)
        embedding = None if self.embedding is None else self.embedding[which]
        return ImageFeatures(self.image[which], tuple(level[which] for level in self.levels), embedding,
                             self.views[which])


class RetinalClip(nn.Module):
    """An ``open_clip.CustomTextCLIP`` with access to the feature maps of its image tower.

    Parameters
    ----------
    config : ClipConfig
    text_folder : path
        Folder with the BERT ``config.json`` and the tokenizer files. No
        weights are read from it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipConfig, text_folder: str | Path) -> None:
        super().__init__()
        import open_clip
        from transformers import AutoTokenizer

        text_folder = str(text_folder)
        self.config = config
        self.model = open_clip.CustomTextCLIP(
            embed_dim=config.embed_dim,
            vision_cfg={
                "timm_model_name": config.trunk, "timm_model_pretrained": False,
                "timm_pool": "avg", "timm_proj": "linear", "image_size": 512,
            },
            text_cfg={
                "hf_model_name": text_folder, "hf_model_pretrained": False, "hf_tokenizer_name": text_folder,
                "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear",
            },
        )
        self.tokenizer: Any = AutoTokenizer.from_pretrained(text_folder, local_files_only=True)
        trunk = self.model.visual.trunk
        self.channels: tuple[int, ...] = tuple(level["num_chs"] for level in trunk.feature_info)
        mean, std = trunk.default_cfg["mean"], trunk.default_cfg["std"]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def text_transformer(self) -> BertModel:
        """The BERT of the text tower, shared with the detector."""
        return self.model.text.transformer

    def encode_image(self, views: Tensor) -> ImageFeatures:
        """Run the image encoder once.

        Parameters
        ----------
        views : Tensor
            (B, 3, H, W) float in [0, 1]; H and W multiples of 32.
        """
        features, visual = self.normalise(views), self.model.visual
        last, levels = visual.trunk.forward_intermediates(features.image, indices=list(range(len(STRIDES))))
        embedding = F.normalize(visual.head(visual.trunk.forward_head(last)), dim=-1)
        return replace(features, levels=tuple(levels), embedding=embedding)

    def normalise(self, views: Tensor) -> ImageFeatures:
        """The views as the trunk takes them, without running it: for a head that has a trunk of its own."""
        image = ((views - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return ImageFeatures(image, (), None, views)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of the texts."""
        device = self.mean.device
        tokens = self.tokenizer(list(texts), padding="longest", truncation=True, max_length=64, return_tensors="pt")
        return F.normalize(self.model.text(tokens["input_ids"].to(device)), dim=-1)

    @property
    def scale(self) -> Tensor:
        """Factor on the cosine, the inverse temperature."""
        return self.model.logit_scale.exp().clamp(max=100)
