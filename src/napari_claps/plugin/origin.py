"""Where an image layer comes from: what its file knows beside the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_claps.errors import ClapsError
from napari_claps.types import RetinalImage

if TYPE_CHECKING:
    from napari.layers import Layer

ORIGIN = "napari_claps_origin"
"""Where a layer's ``metadata`` keeps its `Origin`; apart from the plain JSON types, as this is none."""


@dataclass(frozen=True, eq=False)
class Origin:
    """An image as it was read, with localizer, scan lines and layer lines.

    Parameters
    ----------
    image : RetinalImage
        Its pixels are the array of the layer, not a copy.
    path : Path or None
        Absolute path of the file or folder; None for samples and for pixels that came inside a session.
    """

    image: RetinalImage
    path: Path | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Origin:
        """Napari copies the metadata of a layer that is duplicated; what a file said does not change."""
        return self

    def is_still(self, data: np.ndarray) -> bool:
        """Whether the file is there and has the pixels `data`, neither of them changed since."""
        from napari_claps.io import read

        if self.path is None:
            return False
        try:
            found = read(self.path).data
        except ClapsError:
            return False
        if found.shape != data.shape or found.dtype != data.dtype:
            return False
        # Row by row or slice by slice: a comparison of the whole needs a whole array of truth values.
        return all(np.array_equal(a, b) for a, b in zip(found, data, strict=True))


def origin_of(layer: Layer) -> Origin | None:
    """Return the origin of a layer that this program opened."""
    found = layer.metadata.get(ORIGIN)
    return found if isinstance(found, Origin) else None
