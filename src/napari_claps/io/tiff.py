"""TIFF files: plain, multi-page, ImageJ and OME."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import tifffile

from napari_claps.errors import InputError
from napari_claps.io.ome import channel_names, physical_sizes
from napari_claps.io.pixels import check_claim, grey_or_rgb
from napari_claps.io.units import mm_per
from napari_claps.types import RetinalImage, SpacingSource

# tifffile logs every oddity of a damaged file; without a handler, Python prints that beside our own message.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MAP_FROM = 256 * 2**20
"""Uncompressed stacks of at least so many bytes are mapped, not loaded."""

_PRINTING_UNITS = ("inch", "inches", "in", "cm")

_READABLE = ("MINISWHITE", "MINISBLACK", "RGB", "PALETTE", "YCBCR")


def read_tiff(path: Path) -> RetinalImage:
    """Read a TIFF, OME-TIFF or ImageJ file as one image or volume.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        Pages, z or time become the slice axis. OME physical sizes and the
        calibration of ImageJ become the spacing; the dots per inch of a plain
        TIFF do not, since they are for printing. When only the pixel size
        within a slice is known, the spacing is None and
        ``plane_spacing`` is it. Large uncompressed stacks are a
        read-only memory map.

    Raises
    ------
    InputError
        If the file is truncated or damaged, claims an impossible size, has
        pages of different sizes, or has channels that are not colours.
    """
    # _multifile: parts in other files would be read from wherever the metadata point.
    with tifffile.TiffFile(path, _multifile=False) as tif:
        series = _only_series(tif, str(path))
        check_complete(tif, series, path)
        axes, data = _decode(series, path)
        ome = tif.ome_metadata if tif.is_ome else None
        spacing = physical_sizes(ome) if ome else _imagej_spacing(tif) if tif.is_imagej else {}
        names = channel_names(ome)
    return _arrange(data, axes, spacing, names, str(path))


def _only_series(tif: tifffile.TiffFile, source: str) -> tifffile.TiffPageSeries:
    if not tif.pages or not tif.series:
        raise InputError(f"{source}: holds no image; the file is truncated or damaged.")
    # Reduced copies (thumbnails, pyramid levels) are no images of their own.
    full = [s for s in tif.series if s.keyframe is not None and not s.keyframe.is_reduced] or list(tif.series[:1])
    if len(full) > 1:
        shapes = ", ".join(str(s.shape) for s in full[:4])
        raise InputError(
            f"{source}: holds {len(full)} images of different size or kind ({shapes}); save the one that counts alone."
        )
    return full[0]


def check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Compare what the tags promise with what is in the file, before memory is taken.

    Raises
    ------
    InputError
        If something is missing, or the size is impossible.
    """
    source, size = str(path), tif.filehandle.size
    truncated = f"{source}: is truncated or damaged; copy or export it again."
    page = series.keyframe
    if page.photometric not in tuple(getattr(tifffile.PHOTOMETRIC, name) for name in _READABLE):
        raise InputError(f"{source}: has the colour space {page.photometric!r}; save it as grey or RGB.")
    if series.dtype is None:
        raise InputError(f"{source}: has pixels of {page.bitspersample} bits, which is no known type.")
    if _chain_is_broken(tif):
        raise InputError(truncated)
    if series.dataoffset is not None:  # one block, possibly more than its only page tells (ImageJ)
        check_claim(source, series.shape, series.dtype.itemsize, size - series.dataoffset, compressed=False)
        return
    available = 0
    expected = int(np.prod(page.chunked))
    for part in series.pages:
        if part is None:
            raise InputError(f"{source}: some slices are missing or in other files. Save it as one complete file.")
        offsets, counts = part.dataoffsets, part.databytecounts
        # A byte count of 0 is how sparse and damaged files say "not here"; it would be read as black.
        if len(offsets) != expected or len(counts) != expected or not all(counts):
            raise InputError(truncated)
        if any(start + n > size for start, n in zip(offsets, counts, strict=True)):
            raise InputError(truncated)
        available += sum(counts)
    itemsize, compressed = series.dtype.itemsize, page.compression != 1 or page.bitspersample < 8
    check_claim(source, series.shape, itemsize, min(available, size), compressed=compressed)


def _chain_is_broken(tif: tifffile.TiffFile) -> bool:
    """Whether the list of pages ends without the final zero, so that tifffile silently dropped the rest."""
    len(tif.pages)  # walks the list
    where = tif.pages.next_page_offset
    if not where:
        return True
    tif.filehandle.seek(where)
    end = tif.filehandle.read(tif.tiff.offsetsize)
    return len(end) < tif.tiff.offsetsize or any(end)


def _decode(series: tifffile.TiffPageSeries, path: Path) -> tuple[str, np.ndarray]:
    page = series.keyframe
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        colours = np.moveaxis(page.colormap, 0, -1)  # (n, 3), 16 bits
        index = series.asarray()
        if index.max(initial=0) >= len(colours):
            raise InputError(f"{path}: has pixels outside of its palette; the file is damaged.")
        # Some writers store 8-bit numbers in the 16-bit table.
        shift = 8 if colours.max() > 255 else 0
        return series.axes + "S", (colours >> shift).astype(np.uint8)[index]
    inverse = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and series.dtype.kind in "bu"
    # The dtype of tifffile is always native; the order of the bytes in the file (big-endian in ImageJ's) is beside it.
    native = page.dtype is not None and page.dtype.newbyteorder(page.parent.byteorder).isnative
    if series.dataoffset is not None and series.nbytes >= MAP_FROM and native and not inverse:
        mapped = np.memmap(path, dtype=series.dtype, mode="r", offset=series.dataoffset, shape=series.shape)
        return series.axes, mapped
    data = series.asarray(maxworkers=1)
    return series.axes, ~data if inverse else data


def _arrange(data: np.ndarray, axes: str, spacing: dict[str, float], names: list[str], source: str) -> RetinalImage:
    """Turn any axes into ([slice], y, x, [colour])."""
    if "Y" not in axes or "X" not in axes:
        raise InputError(f"{source}: has the axes {axes}; an image needs Y and X.")
    keep = [i for i, (axis, n) in enumerate(zip(axes, data.shape, strict=True)) if n > 1 or axis in "YX"]
    data = data.reshape([data.shape[i] for i in keep])
    axes = "".join(axes[i] for i in keep)

    colours = [axis for axis in axes if axis in "CS"]
    if len(colours) > 1:
        raise InputError(f"{source}: has the axes {axes}, channels with several samples each. Save one channel.")
    if colours:
        n = data.shape[axes.index(colours[0])]
        # Channels are colours only when nothing speaks against it: fluorophores and masks come as channels too.
        if colours[0] == "C" and (n not in (3, 4) or data.dtype != np.uint8):
            named = f" ({', '.join(names)})" if names else ""
            raise InputError(
                f"{source}: has {n} channels{named} of {data.dtype}, which are not the colours of one image. "
                "Give the image itself, or save one channel."
            )
        data = np.moveaxis(data, axes.index(colours[0]), -1)
        axes = axes.replace(colours[0], "") + "S"
    slices = [axis for axis in axes if axis not in "YXS"]
    if len(slices) > 1:
        raise InputError(
            f"{source}: has the axes {axes} with {data.shape} entries; one axis beside Y and X is understood, "
            "so save one time point or one stack."
        )
    order = [*slices, "Y", "X"] + (["S"] if colours else [])
    data = np.transpose(data, [axes.index(axis) for axis in order])
    data, rgb = grey_or_rgb(data, source, colour=bool(colours))

    placed = [axis for axis in order if axis != "S"]
    plane = (spacing["Y"], spacing["X"]) if {"Y", "X"} <= spacing.keys() else None
    known = tuple(spacing[axis] for axis in placed) if set(placed) <= spacing.keys() else None
    return RetinalImage(
        data, rgb=rgb, source=source, spacing=known, plane_spacing=plane,
        spacing_source=SpacingSource.NONE if known is None else SpacingSource.FILE,
    )  # fmt: skip


def _imagej_spacing(tif: tifffile.TiffFile) -> dict[str, float]:
    """Millimetres per axis from the calibration of ImageJ: pixels per unit, and the distance of slices.

    ImageJ turns the dots per inch (or cm) of a picture that it opened into a calibration. Those are for printing, and
    nobody measures an eye in inches.
    """
    info, tags = tif.imagej_metadata or {}, tif.pages.first.tags
    if str(info.get("unit", "")).strip().lower() in _PRINTING_UNITS:
        return {}
    spacing = {}
    for axis, tag in (("X", "XResolution"), ("Y", "YResolution")):
        # ImageJ may name a unit of its own for an axis.
        factor = mm_per(str(info.get(f"{axis.lower()}unit", info.get("unit", ""))))
        if factor is not None and tag in tags:
            pixels, units = tags[tag].value
            if pixels and units:
                spacing[axis] = units / pixels * factor
    factor = mm_per(str(info.get("zunit", info.get("unit", ""))))
    if factor is not None and "spacing" in info:
        spacing["Z"] = abs(float(info["spacing"])) * factor  # the sign tells the direction of the stage
    return spacing
