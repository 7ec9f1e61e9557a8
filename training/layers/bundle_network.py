"""A surface head on what the shipped bundle sees in B-scans: its trunk and its pixel decoder of the modality `oct`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.models.networks.clip import ImageFeatures
from training.layers.network import Double, SurfaceHead, SurfaceLogits


class BundleSurfaces(nn.Module):
    """Trunk and pixel decoder as in the bundle, half of its stride taken back along y, and a `SurfaceHead`.

    Parameters
    ----------
    name : str
        Bundle whose weights they start from.
    boundaries : int
    learn : {"head", "decoder", "all"}
        What is learnt: the head alone, with the pixel decoder, or with the trunk too (at a fifth of the rate).
    classes : bool
        As of `SurfaceHead`.
    """

    multiple = 16
    column = 2
    zoom = 1

    def __init__(self, name: str = "claps-tiny", boundaries: int = 9, *, learn: str = "decoder",
                 classes: bool = False) -> None:
        super().__init__()
        bundle = load_bundle(name, device="cpu")
        encoder = bundle.segmenter.image_encoder
        trunk, own = bundle.clip.model.visual.trunk, encoder.own_trunks["oct"]
        self.ends = {level["module"] for level in trunk.feature_info}
        self.stem = copy.deepcopy(nn.Sequential(own.conv_stem, own.bn1)).float()
        self.blocks = copy.deepcopy(nn.ModuleList([*own.blocks, *trunk.blocks[len(own.blocks):]])).float()
        self.decoder = copy.deepcopy(encoder.own_pixel_decoders["oct"]).float()
        self.register_buffer("mean", bundle.clip.mean.clone())
        self.register_buffer("std", bundle.clip.std.clone())
        width = bundle.segmenter.config.widths[0]
        self.fine = nn.Sequential(nn.Conv2d(width + 1, 16, 1), Double(16, 16))
        self.head = SurfaceHead(16, boundaries, classes=classes)
        self.learn = learn
        for part in (self.stem, self.blocks):
            part.requires_grad_(learn == "all")
        self.decoder.requires_grad_(learn in ("decoder", "all"))
        self.decoder.neck.requires_grad_(False)

    def train(self, mode: bool = True) -> BundleSurfaces:
        """The trunk keeps the statistics of its batch normalisation."""
        super().train(mode)
        self.stem.eval(), self.blocks.eval()
        return self

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups of parameters for the optimiser: what was learnt before moves more slowly."""
        parts = [((self.stem, self.blocks), 0.1), ((self.decoder,), 0.25), ((self.fine, self.head), 1.0)]
        found = [([p for m in modules for p in m.parameters() if p.requires_grad], lr * rate)
                 for modules, rate in parts]
        return [{"params": p, "lr": rate} for p, rate in found if p]

    def features(self, images: Tensor) -> ImageFeatures:
        """Levels of the trunk for standardised images (B, 1, H, A-scans)."""
        views = (0.1 + 0.8 * images).clamp(0, 1).expand(-1, 3, -1, -1)
        x = image = ((views - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        levels = []
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if f"blocks.{number}" in self.ends:
                levels.append(x)
        return ImageFeatures(image, tuple(levels), None, views)

    def forward(self, images: Tensor) -> SurfaceLogits:
        """Answer for standardised images (B, 1, H, A-scans), both multiples of 32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learn == "all"):
            features = self.features(images)
        pixels = self.decoder(features).pixels
        narrow = F.avg_pool2d(images, (1, self.column))
        pixels = F.interpolate(pixels, narrow.shape[2:], mode="bilinear", align_corners=False)
        return self.head(self.fine(torch.cat([pixels, narrow], 1)))
