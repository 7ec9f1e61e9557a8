"""Which device the networks run on."""

from __future__ import annotations

from napari_claps.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> str:
    """Return ``"cpu"``, ``"cuda"`` or ``"mps"`` for a name of `DEVICES`.

    Raises
    ------
    DeviceError
        If the name is unknown, or the device is not there.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if there[d])
    if name not in there:
        raise DeviceError(f"Unknown device {name!r}. Known are: {', '.join(DEVICES)}.")
    if not there[name]:
        reason = {"cuda": "no CUDA GPU that this PyTorch can use", "mps": "no Apple GPU that this PyTorch can use"}
        raise DeviceError(f"Device {name!r} was asked for, but there is {reason[name]}. Use 'cpu' or 'auto'.")
    return name
