"""Masks as OME-TIFF: instance numbers per target, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from napari_claps.results.planes import PlaneWriter
from napari_claps.types import RetinalImage


class MaskWriter(PlaneWriter):
    """Takes the masks slice by slice and writes them as one uint16 file, 0 = background and where no slice came.

    Parameters
    ----------
    image : RetinalImage
        Gives the size and the spacing.
    labels : sequence of str
        Channel names, in order.
    """

    def __init__(self, image: RetinalImage, labels: Sequence[str]) -> None:
        super().__init__(image, labels, dtype="<u2")
        self._digests = {label: hashlib.sha256() for label in self._labels}

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of each mask: its (y, x) planes as little-endian uint16, in the order in which the slices came.

        Of masks as such, not of the file: that depends on the version of the compression library.
        """
        return {label: digest.hexdigest() for label, digest in self._digests.items()}

    def _keep(self, label: str, index: int, pixels: bytes) -> None:
        self._digests[label].update(pixels)
        super()._keep(label, index, pixels)
