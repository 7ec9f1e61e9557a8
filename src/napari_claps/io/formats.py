"""Which reader opens which file: a table, and how a file is recognised."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from napari_claps.errors import InputError
from napari_claps.types import RetinalImage

HEAD = 4096
"""Bytes from the start of a file that decide what it is."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Parameters
    ----------
    name : str
        For messages.
    suffixes : tuple of str
        Lower case, with the dot.
    reader : str
        ``"module:function"``, imported on first use; the function takes a Path and returns a RetinalImage.
    magic : tuple of (offset, bytes)
        Any of them marks the format; offset -1 means anywhere in the head. None known: the suffix alone decides.
    identifying : bool
        Whether the file may hold the name of a patient, so that details of an error must not be repeated.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str
    magic: tuple[tuple[int, bytes], ...] = ()
    identifying: bool = False

    def matches(self, head: bytes) -> bool:
        """Whether the first bytes are those of this format."""
        return any(mark in head if at < 0 else head.startswith(mark, at) for at, mark in self.magic)

    def load(self) -> Callable[[Path], RetinalImage]:
        """Import and return the reader."""
        module, function = self.reader.split(":")
        return getattr(importlib.import_module(module), function)


_IO = "napari_claps.io."

FORMATS: tuple[Format, ...] = (
    Format("PNG", (".png",), _IO + "image:read_image", ((0, b"\x89PNG\r\n\x1a\n"),)),
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), _IO + "image:read_image", ((0, b"\xff\xd8\xff"),)),
    Format("BMP", (".bmp", ".dib"), _IO + "image:read_image", ((0, b"BM"),)),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), _IO + "image:read_image",
           tuple((0, b"P%d" % n) for n in range(1, 7))),
    Format("TIFF", (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".btf", ".tf8"), _IO + "tiff:read_tiff",
           ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+"))),
    Format("NumPy", (".npy",), _IO + "numpy:read_npy", ((0, b"\x93NUMPY"),)),
    Format("NIfTI", (".nii", ".nii.gz"), _IO + "nifti:read_nifti",
           ((344, b"n+1\0"), (4, b"n+2\0"), (0, b"\x1f\x8b")), identifying=True),
    Format("Heidelberg .vol", (".vol",), _IO + "heidelberg:read_vol",
           ((0, b"HSF-OCT"), (0, b"ep-v")), identifying=True),
    Format("Heidelberg .e2e", (".e2e",), _IO + "e2e:read_e2e", ((0, b"CMDb"),), identifying=True),
    Format("HEYEX XML export", (".xml",), _IO + "heyex_xml:read_heyex_xml", ((-1, b"<HEDX"),), identifying=True),
    Format("DICOM", (".dcm", ".dicom"), _IO + "dicom:read_dicom", ((128, b"DICM"),), identifying=True),
    Format("Topcon .fda", (".fda",), _IO + "vendor:read_vendor", ((0, b"FOCT"),), identifying=True),
    Format("Topcon .fds", (".fds",), _IO + "vendor:read_vendor", ((0, b"FOCT"),), identifying=True),
    Format("Optovue or Bioptigen .OCT", (".oct",), _IO + "vendor:read_vendor", identifying=True),
    Format("Zeiss .img", (".img",), _IO + "vendor:read_vendor", identifying=True),
)  # fmt: skip

SUFFIXES: dict[str, Format] = {suffix: kind for kind in FORMATS for suffix in kind.suffixes}
"""Suffix in lower case -> format."""

_SURE = 4  # shorter marks ("BM", "P5", gzip) begin too many other files to overrule a suffix


def suffix_of(path: Path) -> str | None:
    """Return the longest known suffix of a file name in lower case (``".ome.tif"``), or None."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def identify(path: Path) -> Format:
    """Decide the format of a file by its suffix and its first bytes; where they disagree, the bytes win.

    Raises
    ------
    InputError
        If the file is missing, empty, not readable or of no known format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error}).") from error
    if not head:
        raise InputError(f"{path}: is empty (0 bytes).")
    named = SUFFIXES.get(suffix_of(path) or "")
    if named is not None and (named.matches(head) or not named.magic):
        return named
    for kind in FORMATS:
        if any(len(mark) >= _SURE and kind.matches(head) for _, mark in kind.magic) or head.startswith(b"\xff\xd8\xff"):
            return SUFFIXES[".jpg"] if head.startswith(b"\xff\xd8\xff") else kind
    if named is not None:
        raise InputError(
            f"{path}: is named like a {named.name} file but does not begin like one. "
            "It is damaged, or another kind of file."
        )
    raise InputError(f"{path}: is no known image file. Known are {', '.join(sorted(SUFFIXES))}.")


def is_readable(path: Path) -> bool:
    """Whether a file in a folder is taken for an image: by its suffix, or by its bytes when it has none."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix == "" or path.suffix.lower() == ".xml":
        try:
            return identify(path) is not None
        except InputError:
            return False
    return suffix_of(path) is not None
