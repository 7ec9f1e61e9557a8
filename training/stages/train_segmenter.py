"""Stage 2: the mask head on the pre-trained encoder, which is tuned along at a lower rate.

``python -m training.stages.train_segmenter --config training/configs/segmenter.toml --init CLIP/final.pt --out RUN``

Loss: binary cross-entropy and Dice of every prompted mask, presence and IoU
heads. Only annotated targets are prompted, so a target that nobody annotated
is unknown and not background; annotated but absent ones are prompted too.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig
from training.data.borrowed import lend, lent_records
from training.data.sampler import ViewBatch, ViewSampler, cache_record, synthetic_images
from training.data.selection import training_records
from training.data.text_bank import TextBank
from training.losses.mask_loss import contrast_loss, mask_loss
from training.run.command import run_stage
from training.run.config import load_config
from training.run.provenance import record_files
from training.run.run import Run
from training.stages.average import AveragedModel
from training.stages.encoder import freeze_encoder, load_clip
from training.stages.spatial_prompts import spatial_prompts
from training.stages.start import STARTS, replace_start
from training.stages.warm_start import learn_only, start_pixels, warm_start, with_own_parts


def train(config: dict[str, Any], out: Path, init: Path, warm: Path | None = None) -> Path:
    """Run the stage; returns the checkpoint written."""
    run = Run(out, config)
    rng = random.Random(config["seed"])
    clip, state = load_clip(init)
    if run.is_first:
        shutil.copytree(init.parent / "text", out / "text", dirs_exist_ok=True)
    replace_start(clip, config.get("start", STARTS[0]))
    seg_config = SegmenterConfig(**config.get("segmenter", {}))
    if warm is not None and "only" in config:
        seg_config = with_own_parts(seg_config, warm)
    sam = RetinalSam(clip, seg_config).to(run.device, memory_format=torch.channels_last)
    freeze_encoder(clip, config["frozen_blocks"])
    bank = TextBank(clip)
    sam.prompt_encoder.fit_text(bank.all())
    if warm is not None:
        warm_start(sam, warm, keep_statistics="only" in config)
    if config.get("pixels_from"):
        start_pixels(sam, config.get("only", ""), config["pixels_from"])
    if "only" in config:
        learn_only(sam, config["only"])
    records, lent = training_records(config), lent_records(config)
    run.record_data(record_files([*records, *(record for _, record in lent)]))
    images = [c for r in tqdm(records, desc="images", mininterval=10) for c in cache_record(r)] + lend(lent)
    images += synthetic_images(config["synthetic"], config["seed"])
    sampler = ViewSampler(images, weights=config["weights"], views=config["views"], oct_share=config["oct_share"],
                          max_prompts=config.get("max_prompts", 4), absurd_share=config.get("absurd_share", 0.0),
                          augmentation=config.get("augmentation", 1.0))

    trunks = [*clip.parameters(), *sam.image_encoder.own_trunks.parameters()]
    tuned, tuned_ids = [p for p in trunks if p.requires_grad], {id(p) for p in trunks}
    new = [p for p in sam.parameters() if id(p) not in tuned_ids and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": tuned, "lr": config["lr"] * config["trunk_rate"]},
                                   {"params": new, "lr": config["lr"]}], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=config["steps"], pct_start=0.08)
    average = AveragedModel(sam, config["average"])
    both = nn.ModuleList([sam, average.model])
    first = run.resume(both, optimizer, schedule, rng)
    predict = run.parallel(
        sam, lambda views, modalities, prompts: sam.predict_masks(
            sam.decode_mixed(clip.encode_image(views), modalities), prompts))

    for step in run.steps(first, config["steps"]):
        batch = sampler.batch(config["batch"], rng)
        views = batch.images.to(run.device)
        batch = ViewBatch(views, batch.modalities, batch.prompts, batch.masks.to(run.device))
        index = torch.tensor([v for v, _ in batch.prompts], device=run.device)
        text = bank.draw(batch, rng).to(run.device)
        rows, boxes, points, labels, objects = spatial_prompts(batch, rng, config["spatial_share"])
        # One batch of prompts: the texts alone, then those with a box or point, half of them without their text.
        count = len(index)
        extra_text = text[rows].clone()
        extra_text[torch.rand(len(rows)) < config.get("wordless_share", 0.5)] = float("nan")
        nan_boxes = torch.full((count, 4), float("nan"), device=run.device)
        prompts = MaskPrompts(
            view=torch.cat([index, index[rows]]), text=torch.cat([text, extra_text]),
            boxes=torch.cat([nan_boxes, boxes]),
            points=torch.cat([torch.zeros(count, 1, 2, device=run.device), points]),
            point_labels=torch.cat([-torch.ones(count, 1, device=run.device), labels]),
        )
        with run.autocast():
            prediction = predict(views, batch.modalities, prompts)
        losses = mask_loss(prediction, torch.cat([batch.masks, objects]))
        losses["contrast"] = contrast_loss(prediction.logits[:count], batch.masks, index)
        loss = (config["cross_weight"] * losses["cross"] + losses["dice"] + 0.1 * losses["presence"]
                + 0.1 * losses["iou"] + config.get("contrast_weight", 0.0) * losses["contrast"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        schedule.step()
        average.update(sam, step)
        run.log(step, loss=loss.item(), **{k: v.item() for k, v in losses.items()})
        if run.is_due(step, config["save_every"], config["steps"]):
            run.save(step + 1, both, optimizer, schedule, rng)
            write(run, average.model, state)
    return write(run, average.model, state)


def write(run: Run, sam: RetinalSam, state: dict[str, Any]) -> Path:
    """Write ``final.pt``: encoder and mask head apart."""
    return run.write_final({
        "arch": {**state["arch"], "segmenter": asdict(sam.config)},
        "clip": sam.image_encoder.clip.state_dict(), "segmenter": sam.head_state_dict(),
    })


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="final.pt of pretrain_clip")
    parser.add_argument("--warm", type=Path, help="final.pt of an earlier run, to start the mask head from")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    return run_stage(lambda: train(load_config(a.config), a.out, a.init, a.warm), a.config)


if __name__ == "__main__":
    sys.exit(main())
