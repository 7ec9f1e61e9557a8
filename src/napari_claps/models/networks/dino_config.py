"""Architecture of an official GroundingDINO, as far as a published checkpoint tells it by its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from napari_claps.models.bundles.checkpoint_file import count_numbered

NAMES = {(96, 6): "Swin-T", (128, 18): "Swin-B"}
"""Published sizes by width and blocks of the third stage."""

HEADS = 8
"""Attention heads of the transformer; the shapes of the weights do not tell it, and all published ones have 8."""


@dataclass(frozen=True)
class DinoConfig:
    """Architecture of an official GroundingDINO; the defaults are Swin-T.

    Parameters
    ----------
    width : int
        Channels of the first stage of the Swin backbone.
    depths, heads : tuple of int
        Blocks and attention heads per stage.
    window : int
        Side of the attention windows.
    levels : int
        Feature levels; the backbone's last three stages, and coarser ones made from the last.
    queries, encoder_layers, decoder_layers, feedforward : int
        Of the transformer.
    points : int
        Sampling points of the deformable attention.
    short_side, long_side : int
        Size in pixels to which a view is scaled: the short side, unless the long one becomes too long.
    text_threshold : float
        Score of a text's best token from which a box belongs to it.
    overlap : float
        Of two boxes of the same text with a greater IoU the better one is kept.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    levels: int = 4
    queries: int = 900
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    points: int = 4
    short_side: int = 800
    long_side: int = 1333
    text_threshold: float = 0.25
    overlap: float = 0.6

    def __post_init__(self) -> None:
        for name in ("depths", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # TOML gives lists

    @property
    def name(self) -> str:
        """Such as "Swin-T"; the sizes if it is none of the published ones."""
        return NAMES.get((self.width, self.depths[2]), f"Swin of width {self.width} and depths {self.depths}")

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> DinoConfig:
        """Read the architecture from the shapes of a published checkpoint.

        Raises
        ------
        KeyError
            If a tensor is missing.
        """
        stages = range(count_numbered(weights, "backbone.0.layers."))
        tables = [weights[f"backbone.0.layers.{i}.blocks.0.attn.relative_position_bias_table"].shape for i in stages]
        levels = weights["transformer.level_embed"].shape[0]
        offsets = weights["transformer.encoder.layers.0.self_attn.sampling_offsets.weight"].shape[0]
        return cls(
            width=weights["backbone.0.patch_embed.proj.weight"].shape[0],
            depths=tuple(count_numbered(weights, f"backbone.0.layers.{i}.blocks.") for i in stages),
            heads=tuple(heads for _, heads in tables), window=(round(tables[0][0] ** 0.5) + 1) // 2,
            levels=levels, queries=weights["transformer.tgt_embed.weight"].shape[0],
            encoder_layers=count_numbered(weights, "transformer.encoder.layers."),
            decoder_layers=count_numbered(weights, "transformer.decoder.layers."),
            feedforward=weights["transformer.encoder.layers.0.linear1.weight"].shape[0],
            points=offsets // (HEADS * levels * 2))
