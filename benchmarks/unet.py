"""A plain U-Net on the same trunk, the same data and the same scorer: what text conditioning has to stand up to.

``python -m benchmarks.unet --modality cfp --steps 960 --init RUN/final.pt --out RUN_UNET`` trains one network for one
modality, with one sigmoid per target. Views, augmentation, held-out part, working scales and tiles are those of
`training.stages.train_segmenter`; so are batch, learning rates and weights of the data sets, from its file.
Images are looked at mirrored too where the bundle does it. A target that a data set did not annotate takes no part in
the loss. Thresholds are chosen on the held-out part of ``train``; ``unet.json`` then has the scores of ``val``.
``--exclude-dataset drive`` leaves a source out. ``--warm RUN_UNET`` goes on from an earlier run. Where the
configuration holds no image out (``learn_all``) they are chosen on the same images, which it has learnt from then.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.tiles import fuse_tiles
from napari_claps.errors import InputError
from napari_claps.inference.mirroring import mirrorings
from napari_claps.models.networks.segmenter import MaskPrediction
from napari_claps.types import Modality
from training.choose.scoring import Annotated, ScoreSheet, dice
from training.data.records import Record, segmentation_records
from training.data.sampler import ViewSampler, cache_record, synthetic_images
from training.data.scales import targets_by_side
from training.data.selection import training_records
from training.losses.mask_loss import mask_loss
from training.run.checkpoint import load_checkpoint
from training.run.command import run_stage
from training.run.config import load_config
from training.run.provenance import record_files
from training.run.run import Run
from training.stages.average import AveragedModel
from training.stages.export import MIRRORED
from training.stages.imagenet import load_imagenet

TRUNK = "tf_efficientnet_lite0"
WIDTHS = (32, 64, 96, 128)
"""Channels of the decoder at strides 2 to 16, as many as the pixel decoder of the mask head has."""
THRESHOLDS = tuple(np.linspace(0.2, 0.7, 11).round(2))


class UNet(nn.Module):
    """Trunk with five strides, up-sampling with skip connections, one logit per target at half the resolution."""

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.trunk = timm.create_model(TRUNK, features_only=True, pretrained=False)
        channels = self.trunk.feature_info.channels()
        below = [*WIDTHS[1:], channels[-1]]
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(skip + under, width), _convolution(width, width))
            for skip, under, width in zip(channels[:-1], below, WIDTHS, strict=True))
        self.head = nn.Conv2d(WIDTHS[0], targets, 1)
        self.register_buffer("mean", torch.tensor(self.trunk.default_cfg["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.trunk.default_cfg["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, views: Tensor) -> Tensor:
        """Logits (B, T, H / 2, W / 2) of views (B, 3, H, W) in [0, 1]."""
        *skips, x = self.trunk(((views - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        for skip, block in zip(reversed(skips), reversed(self.blocks), strict=True):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], dim=1))
        return self.head(x)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(8, outputs),
                         nn.ReLU(inplace=True))


def start_trunk(net: UNet, checkpoint: Path | None, *, frozen_blocks: int) -> None:
    """Load the trunk of a CLIP checkpoint, or ImageNet's; stem, first blocks and batch statistics stay as they are.

    Raises
    ------
    InputError
        If the checkpoint has another trunk.
    """
    if checkpoint is None:
        whole = timm.create_model(TRUNK, pretrained=False)
        load_imagenet(whole)
        weights = whole.state_dict()
    else:
        state, prefix = load_checkpoint(checkpoint), "model.visual.trunk."
        clip = state.get("clip") or state.get("model") or {}
        weights = {k.removeprefix(prefix): v for k, v in clip.items() if k.startswith(prefix)}
    own = net.trunk.state_dict()
    if any(name not in weights or weights[name].shape != value.shape for name, value in own.items()):
        raise InputError(f"{checkpoint}: holds no trunk {TRUNK}. Give the final.pt of a stage that has it.")
    net.trunk.load_state_dict({name: weights[name] for name in own})
    for module in (net.trunk.conv_stem, net.trunk.bn1, *net.trunk.blocks[:frozen_blocks]):
        module.requires_grad_(False)
    net.trunk.eval()


def take_weights(net: UNet, checkpoint: Path, targets: Sequence[str]) -> None:
    """Take all weights of an earlier run.

    Raises
    ------
    InputError
        If it was trained for other targets.
    """
    state = load_checkpoint(checkpoint)
    theirs = state.get("arch", {}).get("targets")
    if theirs != list(targets):
        raise InputError(f"{checkpoint}: is no U-Net for {', '.join(targets)}, but for {', '.join(theirs or ['?'])}. "
                         "Give the run of the same modality.")
    net.load_state_dict(state["model"])


def earlier_steps(folder: Path) -> int:
    """Steps of an earlier run.

    Raises
    ------
    InputError
        If it has not ended, or is none.
    """
    try:
        return int(json.loads((folder / "unet.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: holds no finished run of benchmarks.unet ({type(error).__name__}: {error}). Let "
                         "it end, or leave out --warm.") from error


def train(config: dict[str, Any], out: Path, modality: Modality, init: Path | None,
          warm: Path | None = None) -> tuple[nn.Module, list[str], Run]:
    """Train the network; returns the mean of its weights, the targets of its outputs, and the run."""
    start = "an earlier run" if warm else init.name if init else "ImageNet"
    run = Run(out, {**config, "modality": str(modality), "init": start})
    rng = random.Random(config["seed"])
    records = of_modality(training_records(config), modality)
    run.record_data(record_files(records))
    images = [c for r in tqdm(records, desc="images", mininterval=10) for c in cache_record(r)]
    if modality is Modality.OCT:
        images += synthetic_images(config["synthetic"], config["seed"])
    targets = sorted({t for image in images for t in image.targets})
    sampler = ViewSampler(images, weights=config["weights"], views=config["views"], oct_share=config["oct_share"],
                          max_prompts=len(targets) + 1, augmentation=config.get("augmentation", 1.0))
    net = UNet(len(targets)).to(run.device, memory_format=torch.channels_last)
    start_trunk(net, init, frozen_blocks=config["frozen_blocks"])
    if warm is not None:
        take_weights(net, warm / "final.pt", targets)
    trunk = [p for p in net.trunk.parameters() if p.requires_grad]
    new = [*net.blocks.parameters(), *net.head.parameters()]
    optimizer = torch.optim.AdamW([{"params": trunk, "lr": config["lr"] * config["trunk_rate"]},
                                   {"params": new, "lr": config["lr"]}], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=config["steps"], pct_start=0.08)
    average = AveragedModel(net, config["average"])
    both = nn.ModuleList([net, average.model])
    first = run.resume(both, optimizer, schedule, rng)
    predict = run.parallel(net)
    for step in run.steps(first, config["steps"]):
        batch = sampler.batch(config["batch"], rng)
        with run.autocast():
            logits = predict(batch.images.to(run.device)).float()
        asked = logits[[v for v, _ in batch.prompts], [targets.index(t) for _, t in batch.prompts]]
        unused = torch.zeros(len(asked), device=asked.device)
        losses = mask_loss(MaskPrediction(asked, unused, unused), batch.masks.to(run.device))
        loss = config["cross_weight"] * losses["cross"] + losses["dice"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*trunk, *new], 1.0)
        optimizer.step()
        schedule.step()
        average.update(net, step)
        run.log(step, loss=loss.item(), cross=losses["cross"].item(), dice=losses["dice"].item())
        if run.is_due(step, config["save_every"], config["steps"]):
            run.save(step + 1, both, optimizer, schedule, rng)
    run.finish(average.model, {"trunk": TRUNK, "targets": targets})
    return average.model.eval(), targets, run


def of_modality(records: Sequence[Record], modality: Modality) -> list[Record]:
    """The records of one modality.

    Raises
    ------
    InputError
        If there are none.
    """
    kept = [r for r in records if r.modality is modality]
    if not kept:
        raise InputError(f"No image of modality {modality} is left. There are: "
                         f"{', '.join(sorted({str(r.modality) for r in records}))}.")
    return kept


def probabilities(net: nn.Module, item: Annotated, targets: Sequence[str], device: str) -> dict[str, np.ndarray]:
    """Probability (y, x) of every annotated target that the network has, at the target's own working scale."""
    known = [t for t in item.record.targets if t in targets]
    flips = mirrorings(item.record.modality) if item.record.modality in MIRRORED else ((),)
    found = {}
    for side, group in targets_by_side(item.record.modality, known, item.image.shape[:2]).items():
        rows = [targets.index(t) for t in group]
        maps = fuse_tiles(item.image, side, device, lambda view, _, rows=rows: net(view)[0, rows].sigmoid(), flips)
        found |= dict(zip(group, maps, strict=True))
    return found


def choose_thresholds(net: nn.Module, records: Sequence[Record], targets: Sequence[str],
                      device: str) -> dict[str, float]:
    """The threshold of the best mean Dice for each target over the images that show it; 0.5 where none does."""
    scores: dict[str, list[list[float]]] = {}
    for record in tqdm(records, desc="held out", mininterval=10):
        item = Annotated.read(record)
        for target, probability in probabilities(net, item, targets, device).items():
            truth, inside = item.truth[target], item.field_of_view
            if (truth if inside is None else truth & inside).any():
                scores.setdefault(target, []).append([dice(probability >= t, truth, inside) for t in THRESHOLDS])
    return {t: float(THRESHOLDS[int(np.mean(scores[t], axis=0).argmax())]) if t in scores else 0.5 for t in targets}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", type=Modality, choices=list(Modality), required=True)
    parser.add_argument("--steps", type=int, help="default: of the configuration")
    parser.add_argument("--init", type=Path, help="final.pt whose trunk to start from (default: ImageNet)")
    parser.add_argument("--warm", type=Path, metavar="RUN_UNET", help="folder of an earlier run to go on from")
    parser.add_argument("--exclude-dataset", action="append", default=[], help="leave it out; may be repeated")
    parser.add_argument("--limit", type=int, default=1000, help="images of held-out part and val, at most")
    parser.add_argument("--config", type=Path, default=Path("training/configs/segmenter.toml"))
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args(arguments)

    def work() -> None:
        config = load_config(a.config)
        config |= {"exclude": [*config.get("exclude", []), *a.exclude_dataset], "steps": a.steps or config["steps"]}
        val = of_modality(segmentation_records("val"), a.modality)
        before = earlier_steps(a.warm) if a.warm else 0
        held = [r for r in training_records({**config, "learn_all": False}, held_out=True)
                if r.modality is a.modality]  # small sets have none
        net, targets, run = train(config, a.out, a.modality, a.init, a.warm)
        if not run.is_first:
            return
        thresholds, scores = choose_thresholds(net, held[:a.limit], targets, run.device), ScoreSheet()
        for record in tqdm(val[:a.limit], desc="val", mininterval=10):
            item = Annotated.read(record)
            for target, probability in probabilities(net, item, targets, run.device).items():
                scores.add(item, target, probability, threshold=thresholds[target])
        scores.write(a.out / "unet.json", {
            "modality": str(a.modality), "steps": before + config["steps"], "trunk": TRUNK,
            "exclude": config["exclude"], "thresholds": thresholds})

    return run_stage(work, a.config)


if __name__ == "__main__":
    sys.exit(main())
