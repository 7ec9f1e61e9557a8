"""Stage 1b on tiny data: only the projection and the temperature are fitted, and each text is embedded once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_claps.models.networks.clip import RetinalClip
from tests.training_data import write_clip, write_data
from training.stages.align_clip import train
from training.stages.encoder import load_clip

CONFIG = {"seed": 0, "per_group": 4, "batch": 4, "steps": 60, "lr": 1e-2}
FITTED = {"model.visual.head.proj.weight", "model.logit_scale"}


def test_the_projection_is_fitted_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAPS_DATA", str(write_data(tmp_path / "data")))
    start, asked = write_clip(tmp_path / "clip"), []
    encode = RetinalClip.encode_text

    def counted(self: RetinalClip, texts: list[str]) -> torch.Tensor:
        asked.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(RetinalClip, "encode_text", counted)
    made = train(CONFIG, tmp_path / "aligned", start)
    rows = [json.loads(line) for line in (tmp_path / "aligned" / "log.jsonl").read_text().splitlines()]
    loss = [row["loss"] for row in rows if "loss" in row]
    assert len(loss) == 60 and np.mean(loss[-10:]) < np.mean(loss[:10])
    assert asked and max(Counter(asked).values()) <= 2, "once in the training, and once for the accuracy"

    before, after = (load_clip(p)[0].state_dict() for p in (start, made))
    assert {name for name in before if not torch.equal(before[name], after[name])} == FITTED
