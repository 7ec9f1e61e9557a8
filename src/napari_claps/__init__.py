"""napari-claps: find and segment what is worth measuring in a retinal image."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("napari-claps")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

# Loaded on first use, so that neither a menu nor a file waits for torch.
_WHERE = {
    "read": "napari_claps.io",
    "Box": "napari_claps.types",
    "Modality": "napari_claps.types",
    "Prompt": "napari_claps.types",
    "RetinalImage": "napari_claps.types",
    "SliceResult": "napari_claps.types",
    "Settings": "napari_claps.settings",
    "Pipeline": "napari_claps.inference.pipeline",
    "Request": "napari_claps.study.request",
    "Study": "napari_claps.study.study",
    "segment": "napari_claps.study.segment",
    "measure": "napari_claps.measurement",
    "load_bundle": "napari_claps.models.bundles.bundle",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
