"""Stage 3: the detector on the frozen encoders.

``python -m training.stages.train_detector --config training/configs/detector.toml --init RUN/final.pt --out RUN``

`--init` is the checkpoint of the stage that changed the trunk last. Resumes
from ``last.pt`` in the output folder. At the end the boxes are scored on the
held-out part of ``train``: ``detector.json`` has average precision, threshold,
recall and false alarms of every modality and target.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from tqdm import tqdm

from napari_claps.inference.tiles import plan_tiles
from napari_claps.models.networks.clip import STRIDES, RetinalClip
from napari_claps.models.networks.detections import DetectorOutput
from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector
from napari_claps.words.vocabulary import TARGETS, TEMPLATES, class_text
from training.choose.box_scores import BoxScores
from training.data.detection_data import DetectionClass, compact_images, detection_batch, has_boxes, mask_boxes
from training.data.records import Record
from training.data.sampler import CachedImage, ViewSampler, cache_record, synthetic_images
from training.data.selection import training_records
from training.losses.denoising import denoising_loss, extra_queries, noised_boxes, split
from training.losses.detection_loss import assign_cells, detection_loss
from training.run.checkpoint import load_checkpoint
from training.run.command import run_stage
from training.run.config import load_config
from training.run.provenance import record_files
from training.run.run import Run
from training.stages.average import AveragedModel
from training.stages.encoder import load_clip

FIRST_LEVEL = STRIDES.index(8)
"""The detector uses the trunk's features from stride 8 on."""


def train(config: dict[str, Any], out: Path, init: Path, warm: Path | None = None) -> Path:
    """Run the stage; returns the checkpoint written. `warm` is an earlier detector to start from."""
    run = Run(out, config)
    rng = random.Random(config["seed"])
    clip, state = load_clip(init)
    if run.is_first:
        shutil.copytree(init.parent / "text", out / "text", dirs_exist_ok=True)
    clip = clip.to(run.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    detector = build_detector(clip, config.get("detector", {})).to(run.device)
    if warm is not None:
        detector.load_head_state_dict(load_checkpoint(warm)["detector"])
    held_out = held_out_boxed(config) if run.is_first else []
    sampler = make_sampler(config, run)

    optimizer = torch.optim.AdamW(list(detector.head_parameters()), config["lr"], weight_decay=config["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config["lr"], total_steps=config["steps"], pct_start=0.08)
    average = AveragedModel(detector, config["average"])
    average.model.eval()
    both = nn.ModuleList([detector, average.model])
    first = run.resume(both, optimizer, schedule, rng)
    detector.train()
    propose = run.parallel(detector)
    for step in run.steps(first, config["steps"]):
        losses = batch_losses(clip, propose, sampler, config["batch"], rng, run.autocast(),
                              denoising=config.get("denoising", 0))
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(detector.head_parameters()), 1.0)
        optimizer.step()
        schedule.step()
        average.update(detector, step)
        run.log(step, loss=loss.item(), **{name: value.item() for name, value in losses.items()})
        if run.is_due(step, config["save_every"], config["steps"]):
            run.save(step + 1, both, optimizer, schedule, rng)
    path = run.write_final({
        "arch": {**state["arch"], "detector": asdict(detector.config)},
        "clip": clip.state_dict(), "detector": average.model.head_state_dict(),
    })
    if not run.is_first:
        return path
    scores = score_boxes(clip, average.model, held_out)
    (out / "detector.json").write_text(json.dumps(scores, indent=1))
    return path


def build_detector(clip: RetinalClip, settings: dict[str, Any]) -> RetinalDetector:
    """A new detector for the features and the text encoder of `clip`."""
    config = DetectorConfig(**{"channels": clip.channels[FIRST_LEVEL:], **settings})
    detector = RetinalDetector(config, clip.text_transformer, clip.tokenizer)
    detector.bert.requires_grad_(False)
    return detector


def boxed_records(config: dict[str, Any], *, held_out: bool) -> list[Record]:
    """Images of ``train`` that have compact targets."""
    return [r for r in training_records(config, held_out=held_out) if any(map(has_boxes, r.targets))]


def held_out_boxed(config: dict[str, Any]) -> list[CachedImage]:
    """The held-out part of ``train``, as far as it has compact targets."""
    return compact_images([c for r in boxed_records(config, held_out=True) for c in cache_record(r)])


def make_sampler(config: dict[str, Any], run: Run) -> ViewSampler:
    """Views of the training images that have compact targets; their files go into the records of the run."""
    records = boxed_records(config, held_out=False)
    run.record_data(record_files(records))
    images = [c for r in tqdm(records, desc="images", mininterval=10) for c in cache_record(r)]
    images += synthetic_images(config["synthetic"], config["seed"])
    return ViewSampler(compact_images(images), weights=config["weights"], views=config["views"],
                       oct_share=config["oct_share"], max_prompts=config["max_prompts"])


def batch_losses(
    clip: RetinalClip, propose: Callable[..., DetectorOutput], sampler: ViewSampler, size: int, rng: random.Random,
    autocast: AbstractContextManager | None = None, *, denoising: int = 0,
) -> dict[str, Tensor]:
    """Draw a batch and return its losses by name.

    Parameters
    ----------
    propose : RetinalDetector, or the same spread over processes
    autocast : context manager
        In which the networks compute.
    denoising : int
        Groups of noised true boxes as further queries (`training.losses.denoising`).
    """
    batch = detection_batch(sampler.batch(size, rng))
    detector = getattr(propose, "module", propose)
    device = detector.feat_map.weight.device
    truths = [t.to(device) for t in batch.truths]
    known = batch.known.to(device)
    with autocast or nullcontext():
        features = encode(clip, batch.images.to(device))
        text = detector.encode_text([wording(asked, rng) for asked in batch.classes])
        assignment = assign_cells(truths, [(f.shape[-2], f.shape[-1]) for f in features])
        noised = noised_boxes(truths, known, denoising) if denoising else None
        with extra_queries(detector, text, noised) if noised else nullcontext():
            output = propose(features, text, known, assignment.cells)
    if noised is None:
        return detection_loss(output, truths, known, assignment)
    output, rest = split(output, noised.boxes.shape[1])
    return detection_loss(output, truths, known, assignment) | denoising_loss(rest, noised, truths, known)


@torch.no_grad()
def encode(clip: RetinalClip, views: Tensor) -> tuple[Tensor, ...]:
    """Feature maps of the frozen trunk for the detector."""
    return clip.encode_image(views).levels[FIRST_LEVEL:]


def wording(asked: DetectionClass, rng: random.Random) -> str:
    """One wording of a class text; the first, used at inference, as often as all others together."""
    modality, target = asked
    template = TEMPLATES[0] if rng.random() < 0.5 else rng.choice(TEMPLATES)
    return class_text(TARGETS[target], modality, template)


@torch.no_grad()
def score_boxes(clip: RetinalClip, detector: RetinalDetector, images: Sequence[CachedImage]) -> dict[str, dict]:
    """Scores by modality and target, over the tiles in which the images are seen at inference."""
    device = detector.feat_map.weight.device
    collected: dict[DetectionClass, BoxScores] = {}
    for item in tqdm(images, desc="held out", mininterval=10):
        texts = [class_text(TARGETS[t], item.modality) for t in item.targets]
        text = detector.encode_text(texts)
        height, width = item.image.shape[:2]
        for tile in plan_tiles((height, width)):
            size = (tile.height, tile.width)
            view = _cut(item.image, tile.y, tile.x, size)
            pixels = torch.from_numpy(view).permute(2, 0, 1)[None].float().to(device) / 255
            found = detector.detect(encode(clip, pixels), text, view_size=size, threshold=0.01)[0]
            for index, target in enumerate(item.targets):
                mine = found.text == index
                truth = np.zeros((0, 4), np.float32)
                if target in item.masks:
                    truth = mask_boxes(_cut(item.masks[target], tile.y, tile.x, size) > 127)
                corners = box_convert(torch.from_numpy(truth), "cxcywh", "xyxy")
                corners = corners * torch.tensor([tile.width, tile.height] * 2)
                scores = collected.setdefault((item.modality, target), BoxScores())
                scores.add(found.boxes[mine].cpu(), found.scores[mine].cpu(), corners)
    return {f"{modality}/{target}": s.summary() for (modality, target), s in sorted(collected.items())}


def _cut(array: np.ndarray, y: int, x: int, size: tuple[int, int]) -> np.ndarray:
    """A tile, with zeros beyond the border."""
    tile = array[y:y + size[0], x:x + size[1]]
    padding = [(0, size[0] - tile.shape[0]), (0, size[1] - tile.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(tile, padding)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="final.pt of the stage before")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warm", type=Path, help="final.pt of an earlier run, to start the detector from")
    a = parser.parse_args()
    return run_stage(lambda: train(load_config(a.config), a.out, a.init, a.warm), a.config)


if __name__ == "__main__":
    sys.exit(main())
