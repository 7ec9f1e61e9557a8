"""What each of two processes does in `training/test_parallel.py`: ``torchrun -m tests.ddp_worker OUT CLIP``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.training_data import CLIP_CONFIG, CONFIG, tiny_pretraining
from training.run.parallel import Processes
from training.run.run import Run
from training.stages import pretrain_clip, train_detector, train_segmenter

STEPS = {**CONFIG, "steps": 4, "save_every": 2}
DETECTOR = {
    **STEPS, "steps": 2, "weight_decay": 1e-4, "max_prompts": 3,
    "detector": {"queries": 6, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32},
}


def main(out: Path, clip: Path) -> None:
    torch.set_num_threads(1)
    save, is_due = Run.save, Run.is_due

    def save_and_tell(run: Run, step: int, model: torch.nn.Module, *rest: object) -> None:
        """Each process leaves its own weights, to be compared."""
        save(run, step, model, *rest)
        torch.save(model.state_dict(), out / f"{run.folder.name}_{step}_rank{run.processes.rank}.pt")

    def killed(run: Run, step: int, every: int, last: int) -> bool:
        if step == 2:
            raise KeyboardInterrupt
        return is_due(run, step, every, last)

    Run.save, Run.draw_curves = save_and_tell, lambda run: None
    train_segmenter.train(STEPS, out / "whole", clip)
    Run.is_due = killed
    try:
        train_segmenter.train(STEPS, out / "killed", clip)
    except KeyboardInterrupt:
        Run.is_due = is_due
    train_segmenter.train(STEPS, out / "killed", clip)
    train_detector.train(DETECTOR, out / "detector", clip)
    tiny_pretraining(setattr)
    pretrain_clip.train({**CLIP_CONFIG, "steps": 2}, out / "clip")
    Processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
