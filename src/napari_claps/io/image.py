"""PNG, JPEG, BMP and PPM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from napari_claps.errors import InputError
from napari_claps.io.pixels import check_claim, grey_or_rgb
from napari_claps.types import RetinalImage

# Pillow tries every format it knows otherwise, some through external programs.
_FORMATS = ("PNG", "JPEG", "BMP", "PPM")
_RGBA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")


def read_image(path: Path) -> RetinalImage:
    """Read a PNG, JPEG, BMP, PBM, PGM or PPM file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RetinalImage
        (y, x) uint8 or uint16, or (y, x, 3) uint8, turned upright by its EXIF
        orientation. The spacing is unknown: dots per inch are for printing.

    Raises
    ------
    InputError
        If the file is damaged, truncated, too large or has a meaningful alpha.

    Notes
    -----
    Pillow reads 16-bit RGB files with 8 bits per channel. Of a file with several
    pictures (an MPO of a camera), the first is read.
    """
    source = str(path)
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path, formats=_FORMATS) as file:
                file.verify()  # checksums, which the decoder ignores
        with Image.open(path, formats=_FORMATS) as file:
            itemsize = 4 if file.mode in ("I", "F") else 2 if ";16" in file.mode else 1
            shape = (file.height, file.width, len(file.getbands()))
            check_claim(source, shape, itemsize, path.stat().st_size, compressed=True)
            data = _pixels(ImageOps.exif_transpose(file))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{source}: {error} The image is too large; crop or reduce it first.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{source}: is damaged or truncated ({error}). Copy or export it again.") from error
    data, rgb = grey_or_rgb(data, source, colour=data.ndim == 3)
    return RetinalImage(data, rgb=rgb, source=source)


def _pixels(file: Image.Image) -> np.ndarray:
    """Decode to (y, x) or (y, x, c)."""
    if file.mode in _RGBA_MODES or "transparency" in file.info:
        return np.asarray(file.convert("RGBA"))
    if file.mode in ("1", "L", "RGB"):
        return np.asarray(file)
    if file.mode.startswith("I;16"):
        return np.asarray(file).astype(np.uint16)
    if file.mode in ("I", "F"):
        data = np.asarray(file)
        return data.astype(np.uint16) if file.mode == "I" and data.min() >= 0 and data.max() < 65536 else data
    return np.asarray(file.convert("RGB"))  # palette, CMYK, YCbCr, Lab
