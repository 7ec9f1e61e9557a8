"""What the XML in an OME-TIFF says of its pixels: channel names, and sizes in mm."""

from __future__ import annotations

from xml.etree import ElementTree

from napari_claps.io.units import mm_per


def channel_names(text: str | None) -> list[str]:
    """Names of the channels that have one; none where `text`, the description of the file, is damaged or missing."""
    pixels = _pixels(text)
    channels = () if pixels is None else pixels.findall("{*}Channel")
    return [name for channel in channels if (name := channel.get("Name"))]


def physical_sizes(text: str | None) -> dict[str, float]:
    """Millimetres per axis, for those of X, Y, Z whose physical size is given in a unit of length.

    Raises
    ------
    ValueError
        If a size is no number.
    """
    pixels, sizes = _pixels(text), dict[str, float]()
    if pixels is None:
        return {}
    for axis in "XYZ":
        size = pixels.get(f"PhysicalSize{axis}")
        factor = mm_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))  # the default of the schema
        if size is not None and factor is not None:
            sizes[axis] = float(size) * factor
    return sizes


def _pixels(text: str | None) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(text or "").find(".//{*}Image/{*}Pixels")
    except ElementTree.ParseError:
        return None
