"""The samples of the installation, as napari layers."""

from __future__ import annotations

from typing import Any

from napari_claps.plugin.layers import image_layer_data
from napari_claps.synthetic import SyntheticOCT
from napari_claps.synthetic.samples import SAMPLES

LayerData = tuple[Any, dict[str, Any], str]


def fundus_photograph() -> list[LayerData]:
    """Colour fundus photograph that scikit-image ships (CC0)."""
    return _layers("fundus_photograph")


def microaneurysm_crop() -> list[LayerData]:
    """Small fundus crop with microaneurysms that scikit-image ships (CC0)."""
    return _layers("microaneurysm_crop")


def synthetic_oct() -> list[LayerData]:
    """Synthetic macular OCT volume with its spacing."""
    return _layers("synthetic_oct")


def _layers(name: str) -> list[LayerData]:
    made = SAMPLES[name].make()
    image = made.image if isinstance(made, SyntheticOCT) else made
    return [image_layer_data(image, name.replace("_", " "))]
