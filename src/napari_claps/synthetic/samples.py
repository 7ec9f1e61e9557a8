"""The samples that come with the installation: no download, no patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.synthetic import SyntheticOCT, demo_volume
from napari_claps.types import RetinalImage


class Sample(NamedTuple):
    """A sample: what it is, and the function that makes it."""

    description: str
    make: Callable[[], RetinalImage | SyntheticOCT]


def fundus_photograph() -> RetinalImage:
    """Colour fundus photograph that scikit-image ships (CC0), 1411 x 1411; its pixel size is unknown."""
    from skimage.data import retina

    return RetinalImage(retina(), rgb=True, source="fundus_photograph")


def microaneurysm_crop() -> RetinalImage:
    """Small green-channel crop with microaneurysms that scikit-image ships (CC0), 102 x 102."""
    from skimage.data import microaneurysms

    return RetinalImage(microaneurysms(), source="microaneurysm_crop")


SAMPLES: Mapping[str, Sample] = MappingProxyType({
    "fundus_photograph": Sample("Colour fundus photograph (scikit-image, CC0)", fundus_photograph),
    "microaneurysm_crop": Sample("Fundus crop with microaneurysms (scikit-image, CC0)", microaneurysm_crop),
    "synthetic_oct": Sample("Synthetic macular OCT volume with its truth", demo_volume),
})
"""All samples by name, which is also the stem of their file."""


def write_sample(name: str, folder: str | Path) -> list[Path]:
    """Write a sample as a file that `claps segment` reads.

    Parameters
    ----------
    name : str
        Key of `SAMPLES`.
    folder : path
        Made when it does not exist.

    Returns
    -------
    list of Path
        `NAME.png`; for the volume `NAME.ome.tif` and `NAME_truth.ome.tif`
        (axes CZYX, uint16 instance numbers, channel names = target ids).

    Raises
    ------
    InputError
        If there is no such sample.
    OutputError
        If the folder cannot be written.
    """
    if name not in SAMPLES:
        raise InputError(f"There is no sample {name!r}. Known are: {', '.join(SAMPLES)}.")
    folder = Path(folder)
    made = SAMPLES[name].make()
    if isinstance(made, SyntheticOCT):
        image, truth = folder / f"{name}.ome.tif", folder / f"{name}_truth.ome.tif"
        _write_ome(image, made.image.data, "ZYX", made.image)
        _write_ome(truth, np.stack(list(made.truth.values())), "CZYX", made.image, channels=list(made.truth))
        return [image, truth]
    target = folder / f"{name}.png"
    with atomic_path(target) as temporary:
        Image.fromarray(made.data).save(temporary)
    return [target]


def _write_ome(target: Path, data: np.ndarray, axes: str, image: RetinalImage,
               channels: list[str] | None = None) -> None:
    metadata: dict[str, object] = {"axes": axes}
    if channels:
        metadata["Channel"] = {"Name": channels}
    for axis, mm in zip("ZYX", image.spacing or (), strict=False):
        metadata[f"PhysicalSize{axis}"] = round(mm * 1000, 6)  # micrometres are the unit that OME assumes
        metadata[f"PhysicalSize{axis}Unit"] = "µm"
    with atomic_path(target) as temporary:
        tifffile.imwrite(temporary, data, ome=True, metadata=metadata, compression="zlib", photometric="minisblack")
