"""What contrastive pre-training is worth: the same questions to a CLIP model before and after.

``python -m training.report.clip_report --checkpoint RUN/final.pt --out after.json``
``python -m training.report.clip_report --imagenet --out before.json``

On held-out images: accuracy of the modality told from its text alone (zero-shot); area under the ROC curve of diabetic
retinopathy and diabetic macular oedema for a logistic regression on the frozen features, trained on other images of
other patients; recall of image-to-text and text-to-image retrieval over the captions of labels, with that of chance.
Before: ImageNet's trunk and the text tower as pre-training begins with them, their projections random.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from napari_claps.errors import ClapsError, InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.scales import MULTIPLE
from napari_claps.inference.single_scale import cut, scaled_batch
from napari_claps.inference.tiles import Tile
from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES
from training.choose.box_scores import auroc
from training.data.captions import Key, caption
from training.data.labelled import LabelledImage, labelled_images
from training.data.records import data_root, read_rgb
from training.stages.encoder import load_clip
from training.stages.imagenet import load_imagenet
from training.stages.pretrain_clip import lock_text, signature_embeddings
from training.stages.text_base import load_minilm, write_text_folder

PROBES = {"dr": ("dr", "dr0"), "dme": ("dme", "dme0")}
"""Label of the sick and of the healthy, for each question."""
WORDINGS = 8
"""Captions drawn for a label; their mean stands for it."""


def images_per_label(per_label: int, seed: int) -> list[LabelledImage]:
    """At most `per_label` held-out images, and as many others, of each data set and labels."""
    groups: dict[tuple[str, str, bool], list[LabelledImage]] = {}
    for image in labelled_images():
        groups.setdefault((image.dataset, image.cell, image.held_out), []).append(image)
    rng = random.Random(seed)
    return [image for group in groups.values() for image in rng.sample(group, min(per_label, len(group)))]


@torch.inference_mode()
def features(clip: RetinalClip, images: Sequence[LabelledImage], side: int) -> tuple[Tensor, Tensor]:
    """Pooled features (N, C) of the trunk and embeddings (N, D), of whole fields with a long side of `side`."""
    pooled, embedded = [], []
    for item in tqdm(images, desc="features", mininterval=10):
        batch = scaled_batch([read_rgb(item.path).astype(np.float32) / 255], side, "cpu")
        height, width = (-(-n // MULTIPLE) * MULTIPLE for n in batch.shape[-2:])
        visual = clip.model.visual
        view = (cut(batch, Tile(0, 0, height, width)) - clip.mean) / clip.std
        row = visual.trunk.forward_head(visual.trunk.forward_features(view))
        pooled.append(row[0])
        embedded.append(F.normalize(visual.head(row), dim=-1)[0])
    return torch.stack(pooled).clone(), torch.stack(embedded).clone()


def zero_shot_modality(clip: RetinalClip, embedded: Tensor, images: Sequence[LabelledImage]) -> dict[str, float]:
    """Share of images whose nearest signature is that of their modality: in all, and the mean over modalities."""
    best = (embedded @ signature_embeddings(clip).T).argmax(1).tolist()
    right: dict[Modality, list[bool]] = {}
    for index, item in zip(best, images, strict=True):
        right.setdefault(item.labels.modality, []).append(list(MODALITIES)[index] == item.labels.modality)
    every = [r for rows in right.values() for r in rows]
    return {"n": len(every), "accuracy": float(np.mean(every)),
            "mean_over_modalities": float(np.mean([np.mean(rows) for rows in right.values()]))}


def logistic_regression(inputs: Tensor, labels: Tensor, *, penalty: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Weights (C,) and offset of a logistic regression with an L2 penalty; both classes weigh alike."""
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    share = labels.mean()
    balance = torch.where(labels > 0, 0.5 / share, 0.5 / (1 - share))
    optimizer = torch.optim.LBFGS([weight, offset], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight + offset
        loss = F.binary_cross_entropy_with_logits(logits, labels, weight=balance) + penalty * (weight**2).sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), offset.detach()


def linear_probe(inputs: Tensor, images: Sequence[LabelledImage], question: str, modality: Modality,
                 seed: int) -> dict[str, Any] | None:
    """AUROC on held-out images of patients of whom the regression saw none; None with fewer than 3 of a class."""
    sick, healthy = PROBES[question]
    rows = [i for i, m in enumerate(images) if m.labels.modality is modality and {sick, healthy} & m.labels.true]
    test = [i for i in rows if images[i].held_out]
    patients = {images[i].patient for i in test}
    fit = [i for i in rows if not images[i].held_out and images[i].patient not in patients]
    labels = torch.tensor([float(sick in m.labels.true) for m in images])
    if any(min(labels[part].sum(), (1 - labels[part]).sum()) < 3 for part in (fit, test)):
        return None
    mean, std = inputs[fit].mean(0), inputs[fit].std(0).clamp(min=1e-4)
    weight, offset = logistic_regression((inputs[fit] - mean) / std, labels[fit])
    scores, truth = (((inputs[test] - mean) / std) @ weight + offset).numpy(), labels[test].numpy() > 0
    drawn = np.random.default_rng(seed).integers(len(test), size=(1000, len(test)))
    again = [auroc(scores[d][truth[d]], scores[d][~truth[d]]) for d in drawn]
    low, high = np.quantile([a for a in again if a is not None], [0.025, 0.975])
    return {"auroc": auroc(scores[truth], scores[~truth]), "low": float(low), "high": float(high), "n_fit": len(fit),
            "n_test": len(test), "n_test_sick": int(truth.sum()), "test_patients": len(patients)}


def recall_at(similarity: Tensor, relation: Tensor, k: int) -> dict[str, float]:
    """Share of queries with something that fits among the best `k`, and what a random order would give.

    Parameters
    ----------
    similarity, relation : Tensor
        (Q, N); relation is 1 where a candidate fits, 0 where not, and -1 where that is unknown: then it is no
        candidate. Queries that nothing fits are left out.
    """
    found, chance = [], []
    for scores, fits in zip(similarity, relation, strict=True):
        candidates, right = int((fits >= 0).sum()), int((fits > 0).sum())
        if not right:
            continue
        order = scores.masked_fill(fits < 0, -torch.inf).argsort(descending=True)[:min(k, candidates)]
        found.append(bool((fits[order] > 0).any()))
        chance.append(1 - comb(candidates - right, min(k, candidates)) / comb(candidates, min(k, candidates)))
    if not found:
        return {"queries": 0}
    return {"queries": len(found), "recall": float(np.mean(found)), "chance": float(np.mean(chance))}


def retrieval(clip: RetinalClip, embedded: Tensor, images: Sequence[LabelledImage], seed: int) -> dict[str, dict]:
    """Recall at 1 and 5 between images and the captions of all labels that one of them has."""
    keys: list[Key] = sorted({(m.labels.modality, label) for m in images for label in m.labels.true})
    rng = random.Random(seed)
    with torch.no_grad():
        texts = F.normalize(torch.stack([
            clip.encode_text([caption(key, rng) for _ in range(WORDINGS)]).mean(0) for key in keys]), dim=-1)
    relation = torch.tensor([[m.labels.relation(key) for key in keys] for m in images])
    similarity = embedded @ texts.T
    return {f"{name}@{k}": recall_at(*both, k) for k in (1, 5) for name, both in
            {"image_to_text": (similarity, relation), "text_to_image": (similarity.T, relation.T)}.items()}


def measure_clip(clip: RetinalClip, images: Sequence[LabelledImage], *, side: int, seed: int) -> dict[str, Any]:
    """Everything measured on one model."""
    clip.eval().requires_grad_(False)
    pooled, embedded = features(clip, images, side)
    held = [i for i, m in enumerate(images) if m.held_out]
    if not held:
        raise InputError(f"{data_root()}: none of the {len(images)} images is held out; raise --per-label.")
    shown, held_images = embedded[held], [images[i] for i in held]
    probes = {f"{modality}/{question}": linear_probe(pooled, images, question, modality, seed)
              for modality in (Modality.CFP, Modality.OCT) for question in PROBES}
    return {"modality": zero_shot_modality(clip, shown, held_images), "linear_probe": probes,
            "retrieval": retrieval(clip, shown, held_images, seed)}


def imagenet_clip(config: ClipConfig, seed: int) -> RetinalClip:
    """The model that pre-training starts from."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        kept = write_text_folder(Path(folder))
        clip = RetinalClip(config, folder)
    load_imagenet(clip.model.visual.trunk)
    load_minilm(clip, kept)
    lock_text(clip)
    return clip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path, help="final.pt of a stage")
    model.add_argument("--imagenet", action="store_true", help="the model before pre-training")
    parser.add_argument("--per-label", type=int, default=1000, help="images of each data set and label, at most")
    parser.add_argument("--side", type=int, default=224, help="long side of the whole field (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    a = parser.parse_args(arguments)
    try:
        clip = imagenet_clip(ClipConfig(), a.seed) if a.imagenet else load_clip(a.checkpoint)[0]
        facts = measure_clip(clip, images_per_label(a.per_label, a.seed), side=a.side, seed=a.seed)
    except ClapsError as error:
        print(f"training.report.clip_report: {error}", file=sys.stderr)
        return 1
    about = {"model": "ImageNet" if a.imagenet else "checkpoint", "side": a.side, "per_label": a.per_label}
    with atomic_path(a.out) as temporary:
        temporary.write_text(json.dumps(about | facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
