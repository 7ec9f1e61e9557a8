"""Reading checkpoint files of others without running what may be inside, and telling what they are."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_claps.errors import BundleError

SAFE_TORCH = (2, 10)
"""First version of torch whose `weights_only` reader is not known to be fooled (CVE-2026-24747)."""

_FOREIGN = {
    "sam_mask_decoder.": "SAM 2", "image_encoder.trunk.": "SAM 2", "mask_decoder.hf_token": "HQ-SAM",
    "image_encoder.layers.": "MobileSAM", "vision_encoder.": "the SAM of transformers",
    "vision_model.": "the CLIP of transformers", "text_model.": "the CLIP of transformers",
    "model.backbone.conv_encoder.": "the GroundingDINO of transformers",
    "language_model.": "the GroundingDINO of MMDetection",
}
"""Beginnings of names in checkpoints that are not read, and what they are."""


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """What a file holds.

    Parameters
    ----------
    path : Path
    kind : {"sam-vit", "groundingdino-swin", "open_clip", "claps"}
        "claps" is a checkpoint of our own training.
    weights : mapping of str to Tensor
        Without the prefix of a parallel training; empty for "claps".
    content : mapping
        The whole file, for "claps".
    """

    path: Path
    kind: str
    weights: Mapping[str, Tensor]
    content: Mapping[str, Any]


def read_checkpoint(path: Path) -> CheckpointFile:
    """Read a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file and recognise it by its names.

    Nothing in it is run: tensors and plain values are read, and a file with anything else is refused.

    Raises
    ------
    BundleError
        If it cannot be read, holds code, or is of an unknown kind.
    """
    content = _load(path)
    if _is_ours(content):
        return CheckpointFile(path, "claps", {}, content)
    weights = content
    for name in ("model", "state_dict"):  # of GroundingDINO, and of open_clip's training
        if isinstance(weights.get(name), Mapping):
            weights = weights[name]
    tensors = {str(k).removeprefix("module."): v for k, v in weights.items() if isinstance(v, Tensor)}
    return CheckpointFile(path, _kind(path, tensors), tensors, {})


def _is_ours(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is one of our training, with the architecture of every network that it holds."""
    arch = content.get("arch")
    if "config" not in content or not isinstance(arch, Mapping) or "clip" not in arch:
        return False
    networks = {"clip" if name == "model" else name: value for name, value in content.items()
                if name in ("model", "clip", "segmenter", "detector")}
    return "clip" in networks and all(isinstance(value, Mapping) and isinstance(arch.get(name), Mapping)
                                      for name, value in networks.items())


def count_numbered(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many different names follow `prefix`, such as the numbers of layers."""
    return len({name[len(prefix):].split(".")[0] for name in weights if name.startswith(prefix)})


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        version = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
        if version < SAFE_TORCH:
            raise BundleError(f"{path}: torch {torch.__version__} cannot read such a file safely (CVE-2026-24747). "
                              "Update torch to 2.10 or later, or get the weights as .safetensors.")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except BundleError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # the first bytes already are none of a checkpoint
            raise BundleError(f"{path}: cannot be read as a checkpoint (it was not written by torch.save, or is "
                              "damaged). Give a .safetensors or .pth file.") from error
        raise BundleError(f"{path}: holds pickled code besides tensors{_culprit(str(error))}, which would run when it "
                          "is loaded. It is refused. Ask its author for a .safetensors file, or one with the weights "
                          "alone.") from error
    except Exception as error:  # safetensors, zipfile and torch have many ways to say that a file is damaged
        text = " ".join(str(error).split())
        if "TorchScript" in text:
            raise BundleError(f"{path}: is a TorchScript program, whose code would run. It is refused. Get the weights "
                              "as .safetensors (open_clip publishes them for its models).") from error
        raise BundleError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {text[:160]}). "
                          "It may be cut off; get it again.") from error
    if not isinstance(content, Mapping):
        raise BundleError(f"{path}: holds a {type(content).__name__}, not named tensors. Give a checkpoint of SAM, "
                          "GroundingDINO, open_clip or of this project's training.")
    return content


def _culprit(message: str) -> str:
    """The class that torch's message names, if it does."""
    for word in message.replace("`", " ").split():
        dotted = "." in word.strip(".") and word.replace(".", "").isidentifier()
        if dotted and not word.startswith(("http", "torch.")):
            return f" ({word})"
    return ""


def _kind(path: Path, weights: Mapping[str, Tensor]) -> str:
    names = weights.keys()
    foreign = next((what for prefix, what in _FOREIGN.items() if any(n.startswith(prefix) for n in names)), None)
    if foreign is None and "image_encoder.pos_embed" in names and "mask_decoder.iou_token.weight" in names:
        return "sam-vit"
    if foreign is None and {"transformer.level_embed", "backbone.0.patch_embed.proj.weight"} <= names:
        return "groundingdino-swin"
    if foreign is None and any(n.startswith("visual.") for n in names):
        return "open_clip"
    what = f"looks like {foreign}, which is not supported" if foreign else (
        f"is of an unknown kind (its first tensors: {', '.join(sorted(names)[:3]) or 'none'})")
    raise BundleError(f"{path}: {what}. Known are SAM (ViT-B, L, H, and models fine-tuned from them), GroundingDINO "
                      "(Swin-T, Swin-B), open_clip models, and checkpoints of this project's training.")
