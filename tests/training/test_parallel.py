"""Two processes on the CPU train as one: same weights in both, and resuming changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training_data import write_clip, write_data

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights_and_resume(tmp_path: Path) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    environment = {**os.environ, "CLAPS_DATA": str(write_data(tmp_path / "data")), "OMP_NUM_THREADS": "1",
                   "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    clip, out = write_clip(tmp_path / "clip"), tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "tests.ddp_worker", str(out), str(clip)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    def weights(name: str, rank: int) -> dict[str, torch.Tensor]:
        return torch.load(out / f"{name}_rank{rank}.pt", weights_only=True)

    for name in ("whole_4", "killed_4", "detector_2", "clip_2"):
        first, second = weights(name, 0), weights(name, 1)
        # Batch statistics are those of the first process, which hands them out before every step.
        trained = [key for key in first if ".running_" not in key]
        assert [key for key in trained if not torch.equal(first[key], second[key])] == [], name
    begun, whole, resumed = weights("whole_2", 0), weights("whole_4", 0), weights("killed_4", 0)
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, atol=1e-6, rtol=1e-4)
    moved = [key for key, value in whole.items() if not torch.equal(value, begun[key])]
    assert any("mask_decoder" in key for key in moved) and any("trunk.blocks.6" in key for key in moved)

    facts = json.loads((out / "killed" / "config.json").read_text())
    assert facts["processes"] == 2 and facts["data"]["files"] > 8
    rows = [json.loads(line)["step"] for line in (out / "killed" / "log.jsonl").read_text().splitlines()]
    assert rows == [0, 1, 2, 3], "only the first process logs, and no step twice"
    last = torch.load(out / "killed" / "last.pt", weights_only=True)
    assert len(last["others"]) == 1 and last["others"][0]["rng"] != last["rng"], "each draws views of its own"
    for name in ("clip/final.pt", "detector/final.pt", "detector/detector.json"):
        assert (out / name).exists()
