"""Planes as OME-TIFF: one channel per target, physical sizes, memory that does not grow with the volume."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile

from napari_claps import __version__
from napari_claps.types import RetinalImage
from napari_claps.words.appearance import label_colour

IN_MEMORY = 64 * 2**20
"""Bytes of compressed planes that are kept in memory before they go to a temporary file."""


class PlaneWriter:
    """Takes planes slice by slice and writes them as one file in the end.

    The file has all slices of one channel after the other, the results come
    with all channels of one slice: so each plane is compressed when it comes
    (a mask shrinks a hundredfold) and kept until its turn.

    Parameters
    ----------
    image : RetinalImage
        Gives the size and the spacing.
    labels : sequence of str
        Channel names, in order.
    dtype : str
        Of the file, little-endian.
    missing : float
        Value of a slice that never came, so that planes and image stay aligned; provenance and table say which
        slices were looked at.
    """

    def __init__(self, image: RetinalImage, labels: Sequence[str], *, dtype: str, missing: float = 0) -> None:
        self._image = image
        self._labels = tuple(labels)
        self._dtype = np.dtype(dtype)
        self._missing = missing
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - lives as long as the writer
        self._where: dict[tuple[str, int], tuple[int, int]] = {}

    def add(self, index: int, planes: Mapping[str, np.ndarray]) -> None:
        """Take the (y, x) planes of slice `index`; each is cast to the dtype of the file."""
        for label in self._labels:
            self._keep(label, index, np.ascontiguousarray(planes[label], self._dtype).tobytes())

    def write(self, path: Path) -> None:
        """Write the file, axes CYX for a plane image and CZYX for a volume."""
        image = self._image
        shape = (len(self._labels), *((image.n_slices,) if image.is_volume else ()), *image.plane_shape)
        metadata = {
            "axes": "CZYX" if image.is_volume else "CYX",
            "Channel": {"Name": list(self._labels), "Color": [_ome_colour(label) for label in self._labels]},
            **_physical_size(image),
        }
        tifffile.imwrite(path, self._planes(), shape=shape, dtype=self._dtype, compression="adobe_deflate",
                         rowsperstrip=image.plane_shape[0], photometric="minisblack", ome=True,
                         software=f"napari-claps {__version__}", metadata=metadata)

    def _keep(self, label: str, index: int, pixels: bytes) -> None:
        packed = zlib.compress(pixels, level=4)  # one deflated strip
        self._spool.seek(0, 2)
        self._where[label, index] = (self._spool.tell(), len(packed))
        self._spool.write(packed)

    def _planes(self) -> Iterator[bytes]:
        empty = zlib.compress(np.full(self._image.plane_shape, self._missing, self._dtype).tobytes(), level=4)
        for label in self._labels:
            for index in range(self._image.n_slices):
                if (label, index) not in self._where:
                    yield empty
                    continue
                start, size = self._where[label, index]
                self._spool.seek(start)
                yield self._spool.read(size)


def _physical_size(image: RetinalImage) -> dict[str, float | str]:
    sizes: dict[str, float | str] = {}
    # Micrometres are the unit that OME assumes, and some programs read the number without its unit.
    for axis, millimetres in zip("XYZ", reversed(image.spacing or image.plane_spacing or ()), strict=False):
        sizes[f"PhysicalSize{axis}"] = round(millimetres * 1000, 9)
        sizes[f"PhysicalSize{axis}Unit"] = "µm"
    return sizes


def _ome_colour(label: str) -> int:
    """Return the colour of a label as OME wants it: RGBA in one signed 32-bit number."""
    r, g, b = label_colour(label)
    return int(np.array([r << 24 | g << 16 | b << 8 | 255], dtype=np.uint32).view(np.int32)[0])
