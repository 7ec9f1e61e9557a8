"""Train a surface network.

``python -m training.layers.train --config training/layers/configs/fine_synthetic.toml --out RUN``

The same command goes on from ``last.pt`` in the output folder where a run was stopped or killed. ``final.pt`` holds the
running mean of the weights. Views are drawn by the number of the step, so that a resumed run sees what one that was
never stopped would have seen.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_claps.errors import InputError
from training.layers.augment import draw_view
from training.layers.losses import surface_losses
from training.layers.network import SurfaceUNet
from training.layers.scans import LayerScan, read_layers, without_wrong
from training.layers.synthetic import synthetic_layers
from training.run.checkpoint import load_checkpoint
from training.run.command import run_stage
from training.run.config import load_config, merged
from training.run.run import Run


def make_network(config: dict[str, Any]) -> nn.Module:
    """The network that a configuration names: a U-Net of its own, or a head on the bundle's features."""
    if config["network"] == "unet":
        net = SurfaceUNet(tuple(config["widths"]), column=config.get("column", 2), regions=config["regions"],
                          classes=config["classes"])
        net.zoom = config.get("zoom", 1)
        return net
    if config["network"] != "bundle":
        raise InputError(f"network = {config['network']!r} is none of unet, bundle.")
    from training.layers.bundle_network import BundleSurfaces

    return BundleSurfaces(learn=config["learn"], classes=config["classes"])


def select(scans: list[LayerScan], config: dict[str, Any]) -> list[LayerScan]:
    """Scans to learn from: without the sources, and without every n-th scan, that are kept for the test."""
    kept = [s for s in scans if s.source not in config.get("test_sources", [])]
    if "fold" in config:
        number, count = (int(n) for n in config["fold"].split("/"))
        kept = [s for i, s in enumerate(kept) if i % count != number - 1]
    return kept


def synthetic_pool(config: dict[str, Any]) -> list[LayerScan]:
    """Synthetic scans, which are as good as new in each view that is drawn of them."""
    return [synthetic_layers(np.random.default_rng([config["seed"], i]), real_looks=config["real_looks"],
                             disc_share=config.get("disc_share", 0.0)) for i in range(config["synthetic"])]


def draw_batch(rng: np.random.Generator, real: list[LayerScan], synthetic: list[LayerScan],
               config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 1, y, x) and heights (B, boundary, x) of a batch."""
    images, heights = [], []
    for _ in range(config["batch"]):
        pool = synthetic if not real or (synthetic and rng.random() < config["synthetic_share"]) else real
        image, height = draw_view(rng, pool[rng.integers(len(pool))], tuple(config["view"]),
                                  flat=config.get("flat", False), zoom=config.get("zoom", 1))
        images.append(image)
        heights.append(height)
    return torch.from_numpy(np.stack(images)[:, None]).float(), torch.from_numpy(np.stack(heights))


def train(config: dict[str, Any], out: Path, warm: Path | None = None) -> Path:
    """Run the training; returns the checkpoint written.

    Parameters
    ----------
    config : dict
    out : Path
        Folder of the run.
    warm : Path, optional
        ``final.pt`` of an earlier run, whose weights this one starts from.
    """
    run = Run(out, config)
    real = [without_wrong(s) for s in select(read_layers("train"), config)] if config["real"] else []
    synthetic = synthetic_pool(config)
    if real:
        run.record_data(path for scan in real for path in scan.files)
    net = make_network(config)
    if warm is not None:
        net.load_state_dict(load_checkpoint(warm)["model"])
    both = nn.ModuleDict({"net": net, "average": copy.deepcopy(net).requires_grad_(False)}).to(run.device)
    answer = run.parallel(net)
    groups = [{"params": [p for p in net.parameters() if p.requires_grad], "lr": config["lr"]}]
    if hasattr(net, "groups"):
        groups = net.groups(config["lr"])
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], total_steps=config["steps"],
                                                   pct_start=0.1)
    unused, last = random.Random(config["seed"]), config["steps"]  # numbers come from the step alone
    first = run.resume(both, optimizer, schedule, unused)
    both.train()
    for step in run.steps(first, last):
        rng = np.random.default_rng([config["seed"], 1, step, run.processes.rank])
        images, heights = (t.to(run.device) for t in draw_batch(rng, real, synthetic, config))
        with run.autocast():
            logits = answer(images)
        losses = surface_losses(logits, heights, sigma=config["sigma"])
        loss = sum(config["losses"][n] * value for n, value in losses.items() if config["losses"].get(n))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 5.0)
        if torch.isfinite(norm):
            optimizer.step()
        schedule.step()
        _follow(both["average"], net, min(config["average"], (step + 1) / (step + 11)))
        run.log(step, loss=round(loss.item(), 4), **{n: round(value.item(), 4) for n, value in losses.items()})
        if run.is_due(step, config["save_every"], last):
            run.save(step + 1, both, optimizer, schedule, unused)
    return run.write_final({"model": both["average"].state_dict()})


@torch.no_grad()
def _follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Running mean of the weights, and of the statistics of batch normalisation with them."""
    for mine, theirs in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - decay)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warm", type=Path, help="final.pt of an earlier run, to start from")
    parser.add_argument("--test", default="", help="sources to leave out, e.g. 833,939")
    parser.add_argument("--fold", default="", help="leave every n-th scan out, e.g. 1/4")
    parser.add_argument("--set", nargs="*", default=[], metavar="LINE", help="other lines, e.g. steps=300")
    a = parser.parse_args()
    return run_stage(lambda: train(_with_options(load_config(a.config), a), a.out, a.warm), a.config)


def _with_options(config: dict[str, Any], a: argparse.Namespace) -> dict[str, Any]:
    for line in a.set:
        try:
            config = merged(config, tomllib.loads(line))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"--set {line}: is no line of a configuration ({error}).") from error
    if a.test:
        config["test_sources"] = a.test.split(",")
    if a.fold:
        config["fold"] = a.fold
    return config


if __name__ == "__main__":
    sys.exit(main())
