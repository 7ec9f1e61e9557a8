"""How long each stage of a run takes."""

from __future__ import annotations

import time

import torch


class StageClock:
    """Adds the time since the last lap to a stage; a GPU is waited for, or its work would count for a later stage."""

    def __init__(self, seconds: dict[str, float], device: str) -> None:
        self._seconds = seconds
        self._device = device
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap, or since the start, for `stage`."""
        if self._device != "cpu":
            getattr(torch, self._device).synchronize()
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now
