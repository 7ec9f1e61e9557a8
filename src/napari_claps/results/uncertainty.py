"""How sure the masks are, as OME-TIFF beside them: entropy per pixel, inner and outer masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_claps.results.planes import PlaneWriter
from napari_claps.settings import Settings
from napari_claps.types import RetinalImage, SliceResult

UNCERTAINTY = "uncertainty.ome.tif"
INNER, OUTER = "inner.ome.tif", "outer.ome.tif"


class UncertaintyWriter:
    """Takes what the settings ask for, slice by slice, with the channels of the masks.

    Entropy is float32 in bits, with the precision of float16 (0.0005 bits), which halves the file; NaN in slices that
    were not looked at. Inner and outer masks are uint8, 0 or 1.

    Parameters
    ----------
    image : RetinalImage
    labels : sequence of str
    settings : Settings
    """

    def __init__(self, image: RetinalImage, labels: Sequence[str], settings: Settings) -> None:
        self._labels = list(labels)
        self._writers: dict[str, PlaneWriter] = {}
        if settings.uncertainty:
            self._writers[UNCERTAINTY] = PlaneWriter(image, labels, dtype="<f4", missing=np.nan)
        if settings.coverage is not None:
            self._writers |= {name: PlaneWriter(image, labels, dtype="u1") for name in (INNER, OUTER)}

    @staticmethod
    def files(settings: Settings) -> tuple[str, ...]:
        """Names of the files that these settings ask for."""
        return ((UNCERTAINTY,) if settings.uncertainty else ()) + ((INNER, OUTER) if settings.coverage else ())

    def add(self, result: SliceResult) -> None:
        """Take the planes of one slice."""
        planes = {UNCERTAINTY: result.uncertainty, INNER: result.inner, OUTER: result.outer}
        for name, writer in self._writers.items():
            found = planes[name]
            if name == UNCERTAINTY:
                found = {label: np.asarray(found[label]).astype(np.float16) for label in self._labels}
            writer.add(result.index, found)

    def write(self, folder: Path) -> None:
        """Write the files into an existing `folder`."""
        for name, writer in self._writers.items():
            writer.write(folder / name)
