"""The data that travels between readers, pipeline, writers and plugin.

Conventions: arrays are (y, x) or (z, y, x), colour last; boxes are
``(y0, x0, y1, x1)`` in pixels with ``y1, x1`` exclusive; spacing is in mm per
axis, or ``None`` when nobody said. For OCT, z is the B-scan, y the depth and
x the A-scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np

from napari_claps.errors import InputError


class Modality(StrEnum):
    """Imaging modality, by the id used in files and on the command line."""

    CFP = "cfp"
    UWF = "uwf"
    SLO = "slo"
    FAF = "faf"
    FFA = "ffa"
    OCTA = "octa"
    OCT = "oct"


class SpacingSource(StrEnum):
    """Where the pixel size comes from."""

    FILE = "file"
    USER = "user"
    VENDOR_DEFAULT = "vendor-default"
    NONE = "none"


class BoxSource(StrEnum):
    """How a box was found."""

    DETECTOR = "detector"
    """Proposed by the detector from the text."""
    MASK = "mask"
    """Drawn around an object of the text-prompted mask that the detector did not propose."""
    USER = "user"
    """Drawn or moved by the user."""


@dataclass(frozen=True, eq=False)
class RetinalImage:
    """One image or volume with what its file says about it.

    Parameters
    ----------
    data : ndarray
        (y, x) or (z, y, x) grey, or (y, x, 3) or (z, y, x, 3) RGB uint8. Any real dtype.
    rgb : bool
        Whether the last axis of `data` is colour.
    modality : Modality or None
        Known modality; ``None`` means it is to be detected.
    spacing : tuple of float or None
        Millimetres per spatial axis of `data`, or ``None`` when unknown.
    plane_spacing : tuple of float or None
        Millimetres per pixel along y and x within a slice. Taken from `spacing` where that is known; a volume whose
        slice distance nobody said may know it all the same.
    spacing_source : SpacingSource
    laterality : {"R", "L"} or None
    source : str
        Path or name, for messages and outputs.
    metadata : mapping
        Further allowed facts (scan pattern); never patient identifiers.
    localizer : RetinalImage or None
        En-face image that was taken with an OCT scan.
    scan_lines : ndarray or None
        (n_slices, k, 2) positions of the B-scans on the localizer, each a line of k >= 2
        points (y, x) in pixels of the localizer, from the first A-scan to the last.
    layers : mapping of str to ndarray
        Layer lines of the device: (z, x) depth in pixels, NaN where there is none.
    device : str or None
        Manufacturer and model.

    Raises
    ------
    InputError
        If shape, spacing or content cannot be an image.
    """

    data: np.ndarray
    rgb: bool = False
    modality: Modality | None = None
    spacing: tuple[float, ...] | None = None
    plane_spacing: tuple[float, float] | None = None
    spacing_source: SpacingSource = SpacingSource.NONE
    laterality: str | None = None
    source: str = "image"
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    localizer: RetinalImage | None = None
    scan_lines: np.ndarray | None = None
    layers: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    device: str | None = None

    def __post_init__(self) -> None:
        spatial = self.data.ndim - int(self.rgb)
        if spatial not in (2, 3) or (self.rgb and self.data.shape[-1] != 3):
            raise InputError(
                f"{self.source}: an array of shape {self.data.shape} is neither an image (y, x), a volume "
                "(z, y, x) nor their RGB versions (colour last, 3 channels)."
            )
        if min(self.data.shape[:spatial]) < 1 or min(self.plane_shape) < 8:
            raise InputError(
                f"{self.source}: {self.plane_shape[1]} x {self.plane_shape[0]} pixels are too few; "
                "an image needs at least 8 x 8 pixels."
            )
        if self.spacing is not None:
            object.__setattr__(self, "plane_spacing", tuple(self.spacing[-2:]))
        for spacing, axes in ((self.spacing, spatial), (self.plane_spacing, 2)):
            if spacing is not None and (len(spacing) != axes or not all(np.isfinite(s) and s > 0 for s in spacing)):
                raise InputError(
                    f"{self.source}: spacing {spacing} must be {axes} positive numbers in mm "
                    "(one for each axis), or absent when it is not known."
                )

    @property
    def is_volume(self) -> bool:
        """Whether there is a z axis."""
        return self.data.ndim - int(self.rgb) == 3

    @property
    def n_slices(self) -> int:
        """Number of slices; 1 for a plane image."""
        return self.data.shape[0] if self.is_volume else 1

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width of a slice in pixels."""
        first = int(self.is_volume)
        return self.data.shape[first], self.data.shape[first + 1]

    def plane(self, index: int) -> np.ndarray:
        """Slice `index` as (y, x) or (y, x, 3), in the dtype of the file."""
        return self.data[index] if self.is_volume else self.data


@dataclass(frozen=True)
class Prompt:
    """One thing to look for, and the words that are sent to the models.

    `target` is an id of the vocabulary, or ``None`` for free text.
    `text` is the text as sent, with the modality signature.
    `label` names channels, layers and rows: the target id, or the free text.
    """

    label: str
    text: str
    target: str | None = None


@dataclass(frozen=True)
class Box:
    """A scored box ``(y0, x0, y1, x1)`` in pixels of the slice, end exclusive.

    `instance` is the number of the object in the mask of the same target and
    slice, 0 when no pixel of the mask belongs to the box. `uncertainty` is the
    mean entropy of the object's pixels in bits (0 to 1), if it was measured.
    """

    y0: float
    x0: float
    y1: float
    x1: float
    label: str
    score: float
    slice_index: int = 0
    instance: int = 0
    source: BoxSource = BoxSource.DETECTOR
    uncertainty: float | None = None

    @property
    def corners(self) -> np.ndarray:
        """Corners as (4, 2) array of (y, x), in drawing order."""
        return np.array([[self.y0, self.x0], [self.y0, self.x1], [self.y1, self.x1], [self.y1, self.x0]])


@dataclass(frozen=True)
class ModalityGuess:
    """Modality with its probability, and how it was decided (``detected``, ``user`` or ``file``)."""

    modality: Modality
    probability: float | None
    decided_by: str
    probabilities: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class SliceResult:
    """What was found in one slice.

    Parameters
    ----------
    index : int
        Slice number (0 for a plane image).
    modality : ModalityGuess
    prompts : tuple of Prompt
        In the order asked for.
    masks : mapping of label to ndarray
        (y, x) uint16 instance numbers at the size of the slice, 0 = background.
        Every prompt has one; all zeros means absent.
    boxes : tuple of Box
    presence : mapping of label to float
        In [0, 1], that the target is in this slice at all: a probability where the bundle was calibrated for it
        (`Pair.calibration`), a score where not.
    seconds : mapping of stage to float
    uncertainty : mapping of label to ndarray
        (y, x) float32, entropy of every pixel in bits, 0 to 1, NaN outside a region that was looked at alone. Empty
        unless the settings ask for it.
    inner, outer : mapping of label to ndarray
        (y, x) bool, the pixels that are sure and those that cannot be excluded at the coverage of the settings
        (`napari_claps.trust.conformal`); ``inner <= masks > 0 <= outer``. Empty unless a coverage is set.
    """

    index: int
    modality: ModalityGuess
    prompts: tuple[Prompt, ...]
    masks: Mapping[str, np.ndarray]
    boxes: tuple[Box, ...]
    presence: Mapping[str, float]
    seconds: Mapping[str, float]
    uncertainty: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    inner: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    outer: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
