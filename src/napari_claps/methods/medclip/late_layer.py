"""A late layer of the image tower, and the way from it to the embedding.

The shared encoder has already computed its layers: what comes after one runs
alone. Of another open_clip model the whole tower runs with the layer's output
replaced, which works for transformers, EfficientNets, ConvNeXts and ResNets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from napari_claps.errors import BundleError
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.networks.clip import EncodedViews, RetinalClip

DEPTH = 0.75
"""How far up the layer lies in a tower of another kind: block 9 of 12 in MedCLIP-SAMv2."""


@dataclass(frozen=True, eq=False)
class LateLayer:
    """A layer of the image tower for one view.

    Parameters
    ----------
    features : Tensor
        (C, ...) of the view: (C, h, w) of a feature map, (C, L) of the tokens of a transformer.
    embed : callable
        The rest of the tower: (N, C, ...) to unit vectors (N, D).
    grid : tuple of int
        (h, w) of the positions; the last h * w tokens are theirs.
    """

    features: Tensor
    embed: Callable[[Tensor], Tensor]
    grid: tuple[int, int]

    def to_grid(self, values: Tensor) -> Tensor:
        """Values (...) of the positions as a map (h, w)."""
        return values.flatten()[-self.grid[0] * self.grid[1]:].reshape(self.grid)

    def from_grid(self, values: Tensor) -> Tensor:
        """The values of a map (h, w) at the positions; 0 at tokens that have no place in the image."""
        count = self.features[0].numel() - values.numel()
        return F.pad(values.flatten(), (count, 0)).reshape(self.features.shape[1:])


def late_layer(bundle: Bundle, features: EncodedViews, view: int, level: int) -> LateLayer:
    """The layer of one view of a batch.

    Parameters
    ----------
    bundle : Bundle
    features : EncodedViews
    view : int
        Number of the view in the batch.
    level : int
        Index in `napari_claps.models.networks.clip.STRIDES`, for the shared encoder.

    Raises
    ------
    BundleError
        If the tower is of a kind whose layers are not known.
    """
    clip: Any = bundle.clip
    if isinstance(clip, RetinalClip):
        values = features.levels[level][view]
        return LateLayer(values, lambda x: finish_trunk(clip, x, level), (values.shape[-2], values.shape[-1]))
    return _replaced_layer(clip, features.views[view:view + 1])


def finish_trunk(clip: RetinalClip, values: Tensor, level: int) -> Tensor:
    """Run the shared encoder from the output (N, C, h, w) of a feature level to unit vectors (N, D)."""
    visual = clip.model.visual
    trunk = visual.trunk
    for block in trunk.blocks[trunk.stage_ends[level]:]:
        values = block(values)
    values = trunk.bn2(trunk.conv_head(values))
    return F.normalize(visual.head(trunk.forward_head(values)), dim=-1)


def _replaced_layer(clip: Any, view: Tensor) -> LateLayer:
    """Layer of an open_clip model for the view (1, 3, H, W)."""
    blocks = _blocks(clip.model.visual)
    block = blocks[max(0, round(DEPTH * len(blocks)) - 1)]
    seen: list[Tensor] = []
    with _hooked(block, lambda output: seen.append(output)):
        clip.embed(view)
    output = seen[0]
    tokens = output.ndim == 3

    def embed(values: Tensor) -> Tensor:
        with _hooked(block, lambda _: values.transpose(1, 2) if tokens else values):
            return clip.embed(view.clone().expand(len(values), -1, -1, -1))

    if tokens:
        side = math.isqrt(output.shape[1])  # a class token and registers come before the positions
        return LateLayer(output[0].T, embed, (side, side))
    return LateLayer(output[0], embed, (output.shape[-2], output.shape[-1]))


@contextmanager
def _hooked(module: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within it, `change` sees the output of a module and may return another one."""
    handle = module.register_forward_hook(lambda module, given, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _blocks(visual: nn.Module) -> list[nn.Module]:
    """The blocks or stages of an image tower, in order."""
    for path in ("transformer.resblocks", "trunk.blocks", "trunk.stages"):
        found: Any = visual
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.Sequential | nn.ModuleList) and len(found):
            return list(found)
    stages = [getattr(visual, f"layer{i}", None) for i in range(1, 5)]
    if all(isinstance(stage, nn.Module) for stage in stages):
        return [stage for stage in stages if stage is not None]
    raise BundleError(f"The image tower of this bundle's CLIP ({type(visual).__name__}) has no blocks that method "
                      "medclip-sam can look into. Choose the method claps or salip, or a CLIP with a ViT or ResNet.")
