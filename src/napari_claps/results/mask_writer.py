"""Masks as OME-TIFF: instance numbers per target."""

from __future__ import annotations

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
