"""The JSON document of a session, version 1, as it must be: what is missing or of another type is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from napari_claps.files.schema import Number, Part, Switch, Whole
from napari_claps.session.layers import Placement
from napari_claps.types import BoxSource, Modality, SpacingSource

Unit = Annotated[Number, Field(ge=0, le=1)]
Rgba = tuple[Unit, Unit, Unit, Unit]
Member = Annotated[Whole, Field(ge=0)]
"""Number of an array in the archive."""

Column = dict[str, Any]
"""A column of features; see `napari_claps.session.table`, which knows its types."""


class BoxPart(Part):
    """A `Box`; version 0.1 knew no uncertainty."""

    y0: Number
    x0: Number
    y1: Number
    x1: Number
    label: str
    score: Number
    slice_index: Whole
    instance: Whole
    source: BoxSource
    uncertainty: Number | None = None


class ReferencePart(Part):
    """An image that stays where it is: relative to the session, and absolute where it lies elsewhere."""

    path: str
    absolute: str | None
    sha256: str


class ImagePart(Part):
    """A copy of an image."""

    data: Member
    rgb: Switch
    modality: Modality | None
    spacing: tuple[Number, ...] | None
    spacing_source: SpacingSource
    laterality: str | None
    source: str
    device: str | None
    metadata: dict[str, Any]
    localizer: ImagePart | None
    scan_lines: Member | None
    layers: dict[str, Member]


def _image_kind(value: object) -> str:
    return "reference" if isinstance(value, dict) and "sha256" in value else "copy"


class LayerPart(Part):
    """What all layers have."""

    name: str
    placement: Placement
    style: dict[str, Any]
    metadata: dict[str, Any]


class ImageLayerPart(LayerPart):
    """An `ImageLayer`."""

    type: Literal["image"]
    image: Annotated[
        Annotated[ReferencePart, Tag("reference")] | Annotated[ImagePart, Tag("copy")], Discriminator(_image_kind)
    ]


class MaskLayerPart(LayerPart):
    """A `MaskLayer`; its colours are pairs, because JSON has no numbers as keys."""

    type: Literal["masks"]
    label: str
    data: Member
    colours: tuple[tuple[Whole | None, Rgba], ...] | None
    features: list[Column]


class BoxLayerPart(LayerPart):
    """A `BoxLayer`."""

    type: Literal["boxes"]
    boxes: tuple[BoxPart, ...]
    colours: tuple[Rgba, ...] | None
    shape: tuple[Whole, ...]
    features: list[Column]


class ShapeLayerPart(LayerPart):
    """A `ShapeLayer`."""

    type: Literal["shapes"]
    vertices: Member
    lengths: Member | None
    features: list[Column]


AnyLayerPart = ImageLayerPart | MaskLayerPart | BoxLayerPart | ShapeLayerPart


class DocumentPart(Part):
    """The document; of which format and version it is was asked before."""

    settings: dict[str, Any] | None
    targets: tuple[str, ...]
    provenance: dict[str, Any]
    layers: tuple[Annotated[AnyLayerPart, Field(discriminator="type")], ...]
