"""Keep torch from loading Triton into a process that has drawn with Mesa.

On Linux, Mesa's software and AMD drivers bring an LLVM of their own; Triton, which
the CUDA builds of torch import when they find it, brings another one, and loading
it second ends the process with a segmentation fault. napari draws before anybody
needs Triton: torch imports it late, also where torch itself was imported first, as
``claps gui`` does. Nothing here compiles kernels, so Triton is not missed.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

log = logging.getLogger(__name__)


def hide_triton_from_torch() -> None:
    """Make ``import triton`` fail, if it would crash; to be called before the pipeline is imported."""
    if sys.platform != "linux" or "triton" in sys.modules:
        return
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if "libLLVM" in loaded:
        sys.modules["triton"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
        log.info("Triton is not loaded, because the graphics driver has loaded its own LLVM.")
