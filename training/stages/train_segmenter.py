"""Stage 2: the mask head on the pre-trained encoder, which is tuned along at a lower rate.

``python -m training.train_segmenter --config training/configs/segmenter.toml --init CLIP_RUN/final.pt --out RUN``

Loss: binary cross-entropy and Dice of every prompted mask, presence and IoU
heads. Only annotated targets are prompted, so a target that nobody annotated
is unknown and not background; annotated but absent ones are prompted too.
"""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from napari_claps.models.networks.mask_prompts import MaskPrompts
from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig
from napari_claps.words.vocabulary import kind_of
from training.borrowed import lend, lent_records
from training.mask_loss import contrast_loss, mask_loss
from training.provenance import record_files
from training.run import Run, load_checkpoint, load_config
from training.sampler import ABSURD, ViewBatch, ViewSampler, cache_record, synthetic_images
from training.selection import training_records
from training.stage import run_stage
from training.start import STARTS, replace_start
from training.text_bank import TextBank
from training.warm_start import learn_only, start_pixels, warm_start, with_own_parts


def spatial_prompts(batch: ViewBatch, rng: random.Random,
                    share: float) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
    """Draw a box or a point for some of the present, compact targets.

    Returns
    -------
    rows : list of int
        The prompts of the batch they belong to.
    boxes : Tensor
        (R, 4) jittered x0, y0, x1, y1; NaN where a point was drawn.
    points, labels : Tensor
        (R, 1, 2) x, y and (R, 1); label -1 where a box was drawn.
    masks : Tensor
        (R, H, W) the object meant.
    """
    from skimage.measure import label

    rows, boxes, points, labels, masks = [], [], [], [], []
    for row, (_, target) in enumerate(batch.prompts):
        if target == ABSURD or kind_of(target).is_whole or rng.random() > share:
            continue
        objects = label((batch.masks[row] > 0.5).cpu().numpy(), connectivity=2)
        count = int(objects.max())
        if not count:
            continue
        mine = torch.from_numpy(objects == rng.randint(1, count)).to(batch.masks.device)
        ys, xs = torch.nonzero(mine, as_tuple=True)
        y0, y1, x0, x1 = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
        height, width = y1 - y0, x1 - x0
        jitter = [rng.gauss(0, 0.07) for _ in range(4)]
        rows.append(row)
        if rng.random() < 0.7:
            boxes.append([x0 + jitter[0] * width, y0 + jitter[1] * height,
                          x1 + jitter[2] * width, y1 + jitter[3] * height])
            points.append([[0.0, 0.0]])
            labels.append([-1.0])
            inside = torch.zeros_like(mine)
            inside[y0:y1, x0:x1] = True
            masks.append(batch.masks[row] * inside)  # all of the target that lies in the box
        else:
            pick = rng.randrange(len(ys))
            boxes.append([float("nan")] * 4)
            points.append([[float(xs[pick]), float(ys[pick])]])
            labels.append([1.0])
            masks.append(batch.masks[row] * mine)
    device = batch.masks.device
    stacked = torch.stack(masks) if masks else torch.empty(0, *batch.masks.shape[1:], device=device)
    return (rows, torch.tensor(boxes, device=device).reshape(-1, 4),
            torch.tensor(points, device=device).reshape(-1, 1, 2),
            torch.tensor(labels, device=device).reshape(-1, 1), stacked)


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


class AveragedModel:
    """Running mean of the weights: better than the last ones when a run is short."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after `step` (from 0); faster in the beginning."""
        decay = min(self._decay, (step + 1) / (step + 11))
        own = dict(self.model.named_parameters())
        for name, value in model.named_parameters():
            if value.requires_grad:
                own[name].lerp_(value, 1 - decay)


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
