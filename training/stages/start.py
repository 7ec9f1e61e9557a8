"""What a stage starts from, for ablations: the encoder of the stage before, or less than that."""

from __future__ import annotations

import timm
import torch
from torch import nn

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import RetinalClip
from training.stages.imagenet import load_imagenet

STARTS = ("stage", "imagenet", "random", "random-text")
"""Values of ``start`` in a configuration, the default first."""


def replace_start(clip: RetinalClip, start: str) -> None:
    """Take away what the encoder has learnt, to see what it was worth.

    Parameters
    ----------
    clip : RetinalClip
        Of the stage before; changed in place.
    start : str
        ``"stage"`` leaves it as it is; ``"imagenet"`` gives the trunk ImageNet's weights again, without contrastive
        pre-training; ``"random"`` gives the trunk random weights; ``"random-text"`` gives the text tower random
        weights instead of MiniLM's.

    Raises
    ------
    InputError
        If there is no such start.
    """
    if start not in STARTS:
        raise InputError(f"start = {start!r} is unknown. Known are: {', '.join(STARTS)}.")
    if start == "imagenet":
        load_imagenet(clip.model.visual.trunk)
    elif start == "random":
        trunk = clip.model.visual.trunk
        fresh = timm.create_model(clip.config.trunk, pretrained=False).state_dict()
        trunk.load_state_dict({name: fresh.get(name, value) for name, value in trunk.state_dict().items()})
    elif start == "random-text":
        clip.text_transformer.apply(_forget)


@torch.no_grad()
def _forget(module: nn.Module) -> None:
    """Initialise a layer of the text tower as BERT is before training."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
