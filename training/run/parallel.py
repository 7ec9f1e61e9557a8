"""One process or several: how ``torchrun`` spreads a training run over GPUs (PyTorch DDP), and in which numbers.

``torchrun --nproc_per_node 4 -m training.stages.train_segmenter --config ... --out ...`` starts four processes;
each draws batches of its own, and the gradients are averaged. One process needs no ``torchrun``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from napari_claps.errors import DeviceError, InputError

PRECISIONS = ("auto", "float32", "bfloat16")
"""What a configuration may say; "auto" is bfloat16 where the device computes in it, or else float32."""


@dataclass(frozen=True)
class Processes:
    """The place of this process in a run.

    Parameters
    ----------
    rank : int
        Its number; the first one, 0, logs and saves.
    count : int
        How many there are.
    device : str
        Where it computes.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @classmethod
    def join(cls) -> Processes:
        """Meet the processes that ``torchrun`` started; without it this one is alone.

        Raises
        ------
        DeviceError
            If there are more processes on this machine than GPUs.
        """
        gpus, count = torch.cuda.device_count(), int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(device="cuda" if gpus else "cpu")
        rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        if gpus and local >= gpus:
            raise DeviceError(f"torchrun started more processes than the {gpus} GPUs of this machine; "
                              f"start it with --nproc_per_node {gpus}.")
        if gpus:
            torch.cuda.set_device(local)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if gpus else "gloo")
        return cls(rank, count, f"cuda:{local}" if gpus else "cpu")

    @staticmethod
    def leave() -> None:
        """Say goodbye to the others, at the very end."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """The value of the first process, for all."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def spread(self, module: nn.Module, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Return `function` with gradients that are the mean over all processes.

        Parameters
        ----------
        module : Module
            Owns all weights that are trained. All processes start from those of the first; frozen ones stay.
        function : callable, optional
            What a step computes with it, by default the module's own ``forward``. It may leave weights unused, and is
            called once in each step. Tensors in its result must be in tuples, lists, dicts or dataclasses.
        """
        if self.count == 1:
            return module if function is None else function
        whole = module if function is None else _Forward(module, function)
        return nn.parallel.DistributedDataParallel(whole, find_unused_parameters=True)


class _Forward(nn.Module):
    """DDP hooks into one ``forward``; ours calls several methods of the model."""

    def __init__(self, owner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self._function = function

    def forward(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def number_format(precision: str, device: str) -> torch.dtype:
    """Return bfloat16 or float32 for one of `PRECISIONS`.

    Raises
    ------
    InputError
        If it is none of them.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r} is none of {', '.join(PRECISIONS)}.")
    fast = precision == "bfloat16" or (precision == "auto" and _computes_in_bfloat16(device))
    return torch.bfloat16 if fast else torch.float32


def _computes_in_bfloat16(device: str) -> bool:
    """Whether the device has instructions for it; elsewhere it is emulated, and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public question for CPUs
    return any(getattr(torch.cpu, check, bool)() for check in checks)
