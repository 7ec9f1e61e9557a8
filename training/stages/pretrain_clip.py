"""Stage 1: contrastive pre-training of the retinal CLIP over all modalities.

``python -m training.stages.pretrain_clip --config training/configs/clip.toml --out RUN``

The loss is the contrastive one with several positives per caption (UniCL,
arXiv 2204.03610): every image that a caption fits counts as positive, and
images for which it is unknown are left out. ``loss = "dhn-nce"`` takes that of
MedCLIP-SAMv2 instead (`training.losses.dhn_nce`), with one caption for each image.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES, MODALITY_TEMPLATES
from training.data.augment import augment_photometry
from training.data.captions import Key, Labels, caption
from training.data.labelled import LabelledImage, labelled_images
from training.data.records import read_rgb
from training.losses.contrastive import contrastive_loss
from training.losses.dhn_nce import BETA, TEMPERATURE, dhn_nce_loss
from training.run.command import run_stage
from training.run.config import load_config
from training.run.run import Run
from training.stages.imagenet import load_imagenet
from training.stages.text_base import load_minilm, write_text_folder


@dataclass(frozen=True)
class Example:
    """One image (y, x, 3) uint8 of at most `size` pixels a side, with its labels."""

    image: np.ndarray
    labels: Labels
    held_out: bool


def load_examples(images: Sequence[LabelledImage], size: int) -> list[Example]:
    """Read images, the long side of each scaled to `size`."""
    return [Example(scaled_to(read_rgb(i.path), size), i.labels, i.held_out) for i in images]


def scaled_to(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the long side to `size`; the aspect stays."""
    from PIL import Image

    height, width = image.shape[:2]
    factor = size / max(height, width)
    shape = (max(32, round(width * factor)), max(32, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))


def lock_text(clip: RetinalClip) -> None:
    """Freeze the text tower, with an isometry as its projection.

    A tuned text tower collapses here: labels of whole images hardly tell
    targets of one modality apart, and after 320 steps the cosine between
    "retinal vessels" and "retinal arteries" in a fundus photograph was 1.00.
    The mask head then gives the same mask whatever the text. A locked tower
    keeps them apart (LiT, arXiv 2111.07991, with the roles exchanged).
    """
    torch.nn.init.orthogonal_(clip.model.text.proj.weight)
    clip.model.text.requires_grad_(False)


def make_batch(examples: list[Example], size: tuple[int, int], rng: random.Random) -> Tensor:
    """Random resized crops (B, 3, H, W) in [0, 1], nearly the whole field each."""
    views = []
    for example in examples:
        height, width = example.image.shape[:2]
        keep = rng.uniform(0.75, 1.0)
        h, w = max(16, int(height * keep)), max(16, int(width * keep))
        y, x = rng.randint(0, height - h), rng.randint(0, width - w)
        crop = torch.from_numpy(example.image[y:y + h, x:x + w].copy()).permute(2, 0, 1)[None].float() / 255
        view = F.interpolate(crop, size, mode="bilinear", align_corners=False, antialias=True)[0]
        views.append(view.flip(-1) if rng.random() < 0.5 else view)
    return torch.stack(views)


LOSSES = ("contrastive", "dhn-nce")
"""Values of ``loss`` in the configuration, the default first."""


def choose_loss(config: dict) -> str:
    """Name of the loss.

    Raises
    ------
    InputError
        If there is no such loss.
    """
    name = config.get("loss", LOSSES[0])
    if name not in LOSSES:
        raise InputError(f"loss = {name!r} is unknown. Known are: {', '.join(LOSSES)}.")
    return name


def batch_loss(config: dict, clip: RetinalClip, images: Tensor, batch: list[Example], keys: list[Key],
               rng: random.Random) -> Tensor:
    """Loss of a batch.

    Parameters
    ----------
    images : Tensor
        (B, D) unit vectors of the batch's views.
    keys : list of Key
        A true key of each image.
    """
    paired = choose_loss(config) == "dhn-nce"
    if not paired:
        keys = list(dict.fromkeys(keys))
    relation = torch.tensor([[e.labels.relation(k) for k in keys] for e in batch], device=images.device)
    texts = clip.encode_text([caption(k, rng) for k in keys])
    if not paired:
        return contrastive_loss(images, texts, relation, clip.scale)
    total = dhn_nce_loss(images, texts, temperature=config.get("temperature", TEMPERATURE),
                         beta_image=config.get("beta_image", BETA), beta_text=config.get("beta_text", BETA),
                         negatives=relation == 0)
    return total / (2 * len(batch))


def fix_temperature(clip: RetinalClip, config: dict) -> None:
    """DHN-NCE has no learnt temperature: the model keeps the one of the loss, for all that reads its scale."""
    with torch.no_grad():
        clip.model.logit_scale.fill_(-math.log(config.get("temperature", TEMPERATURE)))
    clip.model.logit_scale.requires_grad_(False)


@torch.no_grad()
def signature_embeddings(clip: RetinalClip) -> Tensor:
    """Unit vectors (M, D) of the M modalities, in the order of `MODALITIES`: the means over their wordings."""
    return F.normalize(torch.stack([
        clip.encode_text([t.format(signature=terms.signature) for t in MODALITY_TEMPLATES]).mean(0)
        for terms in MODALITIES.values()]), dim=-1)


@torch.no_grad()
def modality_accuracy(clip: RetinalClip, examples: list[Example], size: tuple[int, int]) -> float:
    """Zero-shot accuracy of the modality against its signatures."""
    clip.eval()
    texts = signature_embeddings(clip)
    order = list(MODALITIES)
    right = 0
    for start in range(0, len(examples), 32):
        chunk = examples[start:start + 32]
        views = torch.cat([F.interpolate(torch.from_numpy(e.image.copy()).permute(2, 0, 1)[None].float() / 255, size,
                                         mode="bilinear", antialias=True) for e in chunk])
        best = (clip.encode_image(views.to(clip.mean.device)).embedding @ texts.T).argmax(1).tolist()
        right += sum(order[b] == e.labels.modality for b, e in zip(best, chunk, strict=True))
    return right / len(examples)


def train(config: dict, out: Path, *, init: Path | None = None) -> Path:
    """Run the stage; returns the checkpoint written."""
    choose_loss(config)  # a wrong name stops before anything is written
    run = Run(out, config)
    rng = random.Random(config["seed"])
    text_folder = out / "text"
    kept = run.processes.share(write_text_folder(text_folder, layers=config["text_layers"]) if run.is_first else None)
    clip = RetinalClip(ClipConfig(config["trunk"], config["embed_dim"]), text_folder)
    load_imagenet(clip.model.visual.trunk)
    load_minilm(clip, kept)
    lock_text(clip)
    if choose_loss(config) == "dhn-nce":
        fix_temperature(clip, config)
    clip = clip.to(run.device, memory_format=torch.channels_last)
    images = labelled_images()
    run.record_data(i.path for i in images)
    examples = load_examples(images, config["cache_size"])
    fit = [e for e in examples if not e.held_out]
    held_out = [e for e in examples if e.held_out]
    by_modality = {m: [e for e in fit if e.labels.modality == m] for m in Modality}
    modalities = [m for m, found in by_modality.items() if found]
    weights = [len(by_modality[m]) ** 0.5 for m in modalities]

    trunk = list(clip.model.visual.trunk.parameters())
    trunk_ids = {id(p) for p in trunk}
    new = [p for p in clip.parameters() if p.requires_grad and id(p) not in trunk_ids]
    optimizer = torch.optim.AdamW([{"params": trunk, "lr": config["lr"] * 0.3}, {"params": new, "lr": config["lr"]}],
                                  weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=config["steps"], pct_start=0.1)
    first = run.resume(clip, optimizer, schedule, rng)
    size = tuple(config["view"])

    def step_loss(views: Tensor, batch: list[Example], keys: list[Key]) -> Tensor:
        with run.autocast():
            embedding = clip.encode_image(views).embedding
        return batch_loss(config, clip, embedding.float(), batch, keys, rng)

    spread = run.parallel(clip, step_loss)
    for step in run.steps(first, config["steps"]):
        clip.train()
        clip.model.text.eval()
        batch = [rng.choice(by_modality[m]) for m in rng.choices(modalities, weights, k=config["batch"])]
        keys: list[Key] = []
        for example in batch:
            options = sorted(example.labels.true)
            label = rng.choice(options) if options and rng.random() < 0.75 else ""
            keys.append((example.labels.modality, label))
        views = augment_photometry(make_batch(batch, size, rng).to(run.device), rng)
        loss = spread(views, batch, keys)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        run.log(step, loss=loss.item())
        if run.is_due(step, config["save_every"], config["steps"]):
            run.save(step + 1, clip, optimizer, schedule, rng)
    if run.is_first and held_out:
        run.log(config["steps"], modality_accuracy_held_out=modality_accuracy(clip, held_out, size), n=len(held_out))
    return run.finish(clip, arch={"clip": {"trunk": config["trunk"], "embed_dim": config["embed_dim"]}})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    return run_stage(lambda: train(load_config(a.config), a.out), a.config)


if __name__ == "__main__":
    sys.exit(main())
