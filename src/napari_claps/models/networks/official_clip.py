"""Any open_clip model as the CLIP of a bundle, beside other encoders: it names modalities and scores crops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.errors import BundleError

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
"""Names of open_clip's own folder format (``local-dir:``), which a bundle keeps in its folder ``clip``."""


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Views that every network encodes by itself; stands where one shared encoder gives `ImageFeatures`.

    Parameters
    ----------
    views : Tensor
        (B, 3, H, W) in [0, 1].
    clip : OpenClip or None
        Makes `embedding` when it is first read, and once.
    memo : dict
        As in `ImageFeatures`.
    """

    views: Tensor
    clip: OpenClip | None
    levels: tuple[Tensor, ...] = field(default=(), init=False)
    memo: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def image(self) -> Tensor:
        """(B, 3, H, W) the views as the CLIP normalises them."""
        return self.views if self.clip is None else (self.views - self.clip.mean) / self.clip.std

    @cached_property
    def embedding(self) -> Tensor:
        """(B, D) unit vectors in the joint embedding of image and text."""
        if self.clip is None:
            raise BundleError("This bundle has no CLIP, so its views have no embedding. Import one: see claps models.")
        return self.clip.embed(self.views)


class OpenClip(nn.Module):
    """An open_clip model from a folder in its ``local-dir:`` format.

    Parameters
    ----------
    folder : path
        With ``open_clip_config.json``, the weights, and the tokenizer if it is one of Hugging Face. A text tower of
        Hugging Face also needs its ``config.json``.
    has_text : bool
        False for an image tower alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, *, has_text: bool = True) -> None:
        super().__init__()
        import open_clip

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        text = text_config(config["model_cfg"], folder)
        self.has_text = has_text
        name = f"local-dir:{folder}"
        if has_text:
            self.model: Any = open_clip.create_model(name, text_cfg=text)
            # A tokenizer of Hugging Face is told to stay offline; open_clip's own takes no such option.
            offline = {"local_files_only": True} if text.get("hf_tokenizer_name") else {}
            self.tokenizer: Any = open_clip.get_tokenizer(name, **offline)
        else:
            from safetensors.torch import load_file

            # As `create_model` does: the weights are here, none are to be fetched for the trunk.
            vision = {**config["model_cfg"]["vision_cfg"], "timm_model_pretrained": False}
            self.model = open_clip.CustomTextCLIP(
                embed_dim=config["model_cfg"]["embed_dim"], vision_cfg=vision,
                text_cfg={"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
                quick_gelu=config["model_cfg"].get("quick_gelu", False))
            weights = load_file(folder / WEIGHTS)
            self.model.visual.load_state_dict({k.removeprefix("visual."): v for k, v in weights.items()
                                               if k.startswith("visual.")})
        size = self.model.visual.image_size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        published = config.get("preprocess_cfg", {})
        mean = published.get("mean") or open_clip.OPENAI_DATASET_MEAN
        std = published.get("std") or open_clip.OPENAI_DATASET_STD
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def encode_image(self, views: Tensor) -> ViewFeatures:
        """Features of views (B, 3, H, W) in [0, 1]; the image tower runs when its embedding is read."""
        return ViewFeatures(views, self)

    def embed(self, views: Tensor) -> Tensor:
        """Unit vectors (B, D) of views (B, 3, H, W) in [0, 1].

        The whole view is scaled to the model's square: its usual crop of the middle would lose the edges of the field.
        """
        image = F.interpolate(views, self.size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return F.normalize(self.model.encode_image((image - self.mean) / self.std).float(), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of the texts.

        Raises
        ------
        BundleError
            If there is no text tower.
        """
        if not self.has_text:
            raise BundleError("The CLIP of this bundle has no text tower, so it cannot compare images with words. "
                              "Import an open_clip model with both towers.")
        tokens = self.tokenizer(list(texts)).to(self.mean.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """Factor on the cosine, the inverse temperature."""
        return self.model.logit_scale.exp().clamp(max=100)


def text_config(model_config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of the text tower, with names in the Hugging Face hub replaced by the folder."""
    text = dict(model_config.get("text_cfg", {}))
    if text.get("hf_model_name"):
        text.update(hf_model_name=str(folder), hf_model_pretrained=False)
    if text.get("hf_tokenizer_name"):
        text["hf_tokenizer_name"] = str(folder)
    return text
