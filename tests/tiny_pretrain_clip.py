"""`training.stages.pretrain_clip` as a command that begins with random weights: a stage of the tiny recipe."""

from __future__ import annotations

import sys

from tests.training_data import tiny_pretraining
from training.stages import pretrain_clip

if __name__ == "__main__":
    tiny_pretraining(setattr)
    sys.exit(pretrain_clip.main())
