"""The encoder that a stage starts from: read from a checkpoint, and what of it stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from training.run.checkpoint import load_checkpoint


def freeze_encoder(clip: RetinalClip, blocks: int) -> None:
    """Freeze the text tower, all batch statistics, and the stem with the first blocks of the trunk."""
    for p in clip.parameters():
        p.requires_grad_(False)
    trunk = clip.model.visual.trunk
    for block in trunk.blocks[blocks:]:
        for p in block.parameters():
            p.requires_grad_(True)
    clip.eval()


def load_clip(checkpoint: Path, text_folder: Path | None = None) -> tuple[RetinalClip, dict[str, Any]]:
    """Build the CLIP model of a checkpoint; its text folder lies beside it unless given.

    Raises
    ------
    InputError
        If the checkpoint holds none, or not the one that it says.
    """
    state, text = load_checkpoint(checkpoint), text_folder or checkpoint.parent / "text"
    if not isinstance(state, dict) or "clip" not in state.get("arch", {}) or not {"clip", "model"} & state.keys():
        raise InputError(f"{checkpoint}: holds no CLIP model. Give the final.pt of a stage; last.pt only resumes.")
    if not (text / "config.json").is_file():
        raise InputError(f"{text}: has no tokenizer. The folder 'text' of the run belongs beside its final.pt.")
    clip = RetinalClip(ClipConfig(**state["arch"]["clip"]), text)
    try:
        clip.load_state_dict(state["clip"] if "clip" in state else state["model"])
    except RuntimeError as error:
        raise InputError(f"{checkpoint}: its weights belong to another architecture or another text folder than "
                         f"{text} ({' '.join(str(error).split())[:200]}).") from error
    return clip, state
