"""Test-time augmentation: an image is looked at mirrored too, and the mean of the masks is taken.

In the command line and the settings this is called *mirroring*. Networks that were trained with flips still answer a
little differently, and errors of one look are rarely those of another.
"""

from __future__ import annotations

from napari_claps.models.bundles.manifest import BundleManifest
from napari_claps.types import Modality


def mirrorings(modality: Modality) -> tuple[tuple[int, ...], ...]:
    """Axes of (y, x) along which an image is flipped for each look at it; the first is the image as it is.

    Up and down are not alike in a B-scan.
    """
    return ((), (1,)) if modality is Modality.OCT else ((), (1,), (0,), (0, 1))


def looks(manifest: BundleManifest, modality: Modality) -> tuple[tuple[int, ...], ...]:
    """How an image is flipped for each look that a bundle asks for in a modality (axes of (y, x))."""
    return mirrorings(modality) if modality in manifest.mirrored else ((),)
