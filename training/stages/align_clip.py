"""Stage 1b: fit CLIP's image projection again after the mask head has tuned the trunk.

``python -m training.stages.align_clip --init SEGMENTER_RUN/final.pt --out RUN``

Trunk and text tower are frozen; only the projection and the temperature are
fitted, on features of the whole field at the size that inference uses, centred
and scaled (`training.stages.standardised_projection`).
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from napari_claps.inference.scales import FIELD_SIDE, MULTIPLE
from napari_claps.inference.single_scale import cut, scaled_batch
from napari_claps.inference.tiles import Tile
from napari_claps.models.networks.clip import RetinalClip
from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES
from training.data.augment import augment_photometry
from training.data.captions import caption
from training.data.labelled import LabelledImage, labelled_images
from training.data.records import read_rgb
from training.losses.contrastive import contrastive_loss
from training.run.command import run_stage
from training.run.config import load_config
from training.run.run import Run
from training.stages.encoder import load_clip
from training.stages.pretrain_clip import signature_embeddings
from training.stages.standardised_projection import StandardisedProjection


def images_per_group(per_group: int, rng: random.Random) -> list[LabelledImage]:
    """At most `per_group` images of each data set and label; of those with masks, of each set of findings."""
    groups: dict[tuple[str, str], list[LabelledImage]] = {}
    for image in labelled_images():
        groups.setdefault((image.dataset, image.cell or " ".join(sorted(image.labels.true))), []).append(image)
    return [image for group in groups.values() for image in rng.sample(group, min(per_group, len(group)))]


@torch.inference_mode()
def pooled_features(clip: RetinalClip, paths: list[Path], rng: random.Random, *, augment: bool) -> Tensor:
    """Features (N, C) before the projection, of whole fields."""
    rows = []
    for path in tqdm(paths, desc="features", mininterval=10):
        batch = scaled_batch([read_rgb(path).astype(np.float32) / 255], FIELD_SIDE, "cpu")
        height, width = (-(-n // MULTIPLE) * MULTIPLE for n in batch.shape[-2:])
        view = cut(batch, Tile(0, 0, height, width))
        view = augment_photometry(view, rng) if augment else view
        image = ((view - clip.mean) / clip.std).contiguous(memory_format=torch.channels_last)
        visual = clip.model.visual
        rows.append(visual.trunk.forward_head(visual.trunk.forward_features(image))[0])
    return torch.stack(rows)


@torch.no_grad()
def _embedded(texts: list[str], clip: RetinalClip, known: dict[str, Tensor]) -> Tensor:
    """Embeddings (N, D) of texts; the text tower is frozen, so each text goes through it once."""
    if new := [t for t in dict.fromkeys(texts) if t not in known]:
        known.update(zip(new, clip.encode_text(new), strict=True))
    return torch.stack([known[t] for t in texts])


def train(config: dict, out: Path, init: Path) -> Path:
    """Run the stage; returns the checkpoint written."""
    run = Run(out, config)
    rng = random.Random(config["seed"])
    clip, state = load_clip(init)
    clip.requires_grad_(False).eval()
    if run.is_first:
        shutil.copytree(init.parent / "text", out / "text", dirs_exist_ok=True)
    images = images_per_group(config["per_group"], rng)
    run.record_data(i.path for i in images)
    fit, held = [i for i in images if not i.held_out], [i for i in images if i.held_out]
    features = torch.cat([pooled_features(clip, [i.path for i in fit], rng, augment=a) for a in (False, True)])
    labels = [i.labels for i in fit] * 2
    held_features = pooled_features(clip, [i.path for i in held], rng, augment=False) if held else None

    features = features.clone()
    projection = clip.model.visual.head.proj
    head = StandardisedProjection(projection.weight, features)
    clip.model.logit_scale.requires_grad_(True)
    optimizer = torch.optim.AdamW([*head.parameters(), clip.model.logit_scale], lr=config["lr"], weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], total_steps=config["steps"], pct_start=0.05)
    by_modality: dict[Modality, list[int]] = {}
    for i, label in enumerate(labels):
        by_modality.setdefault(label.modality, []).append(i)
    embeddings: dict[str, Tensor] = {}
    for step in run.steps(0, config["steps"]):
        batch = [rng.choice(by_modality[rng.choice(list(by_modality))]) for _ in range(config["batch"])]
        keys = list(dict.fromkeys(
            (labels[i].modality, rng.choice(sorted(labels[i].true)) if labels[i].true and rng.random() < 0.5 else "")
            for i in batch))
        relation = torch.tensor([[labels[i].relation(k) for k in keys] for i in batch])
        texts = _embedded([caption(k, rng) for k in keys], clip, embeddings)
        loss = contrastive_loss(F.normalize(head(features[batch]), dim=-1), texts, relation, clip.scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        run.log(step, loss=loss.item())
    with torch.no_grad():
        projection.weight.copy_(head.folded(features))
    if held_features is not None:
        with torch.no_grad():
            images = F.normalize(projection(held_features.clone()), dim=-1)
            best = (images @ signature_embeddings(clip).T).argmax(1).tolist()
        right = sum(list(MODALITIES)[b] == i.labels.modality for b, i in zip(best, held, strict=True))
        run.log(config["steps"], modality_accuracy_held_out=right / len(held), n=len(held))
    return run.finish(clip, arch={"clip": state["arch"]["clip"]})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    return run_stage(lambda: train(load_config(a.config), a.out, a.init), a.config)


if __name__ == "__main__":
    sys.exit(main())
