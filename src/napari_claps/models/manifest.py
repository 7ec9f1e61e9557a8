"""What a bundle says of itself in ``bundle.toml``; readable without torch."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from napari_claps.errors import BundleError
from napari_claps.types import Modality

PACKAGED = Path(__file__).parent.parent / "bundles"
"""Folder of the bundles that come with the package."""


@dataclass(frozen=True)
class Pair:
    """A (modality, target) that a bundle was trained for.

    Parameters
    ----------
    modality, target : str
    threshold : float
        Lowest probability of a pixel of the mask.
    presence : float
        Presence score below which the target counts as absent.
    text_weight : float
        Share of the text-prompted mask in the final one; the rest is what SAM finds in the detected boxes.
    box_threshold : float
        Lowest score of a detected box.
    min_area : int
        Smallest object, in pixels at the working scale.
    dice : float or None
        Mean Dice on validation images that show the target, `None` when there were none.
    n_images : int
        How many those were.
    """

    modality: Modality
    target: str
    threshold: float = 0.5
    presence: float = 0.0
    text_weight: float = 1.0
    box_threshold: float = 0.3
    min_area: int = 4
    dice: float | None = None
    n_images: int = 0


@dataclass(frozen=True)
class BundleManifest:
    """Content of ``bundle.toml``; `sha256` is that of the file itself, which lists those of all others."""

    name: str
    version: str
    licence: str
    notice: str
    folder: Path
    files: Mapping[str, str]
    sha256: str
    architecture: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    training: Mapping[str, Any]

    @property
    def modalities(self) -> list[Modality]:
        """Modalities with at least one target."""
        return [m for m in Modality if any(p.modality == m for p in self.pairs)]

    def targets(self, modality: Modality) -> list[str]:
        """Ids of the targets it was trained for in this modality."""
        return [p.target for p in self.pairs if p.modality == modality]

    def pair(self, modality: Modality, target: str | None) -> Pair | None:
        """The entry of this modality and target, or None."""
        return next((p for p in self.pairs if (p.modality, p.target) == (modality, target)), None)

    def verify(self) -> None:
        """Compare every file with its sha256.

        Raises
        ------
        BundleError
            Naming the file that is missing or damaged.
        """
        for name, expected in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BundleError(f"Bundle {self.name}: {path} is missing. Install the bundle again.")
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise BundleError(f"Bundle {self.name}: {path} is damaged (its sha256 is not the one in bundle.toml). "
                                  "Install the bundle again.")


def available_bundles() -> list[BundleManifest]:
    """Bundles that come with the package."""
    return [read_manifest(p.parent) for p in sorted(PACKAGED.glob("*/bundle.toml"))]


def read_manifest(name_or_folder: str | Path) -> BundleManifest:
    """Read a bundle by its name, or from a folder.

    Raises
    ------
    BundleError
        If there is none, or its ``bundle.toml`` cannot be read.
    """
    folder = Path(name_or_folder)
    if not (folder / "bundle.toml").is_file():
        packaged = PACKAGED / str(name_or_folder)
        if not (packaged / "bundle.toml").is_file():
            names = ", ".join(sorted(p.parent.name for p in PACKAGED.glob("*/bundle.toml"))) or "none"
            raise BundleError(f"There is no bundle {str(name_or_folder)!r}: neither a folder with a bundle.toml nor "
                              f"an installed one. Installed: {names}.")
        folder = packaged
    path = folder / "bundle.toml"
    try:
        text = path.read_bytes()
        values = tomllib.loads(text.decode("utf-8"))
        known = {f.name for f in fields(Pair)}
        pairs = tuple(Pair(**{**{k: v for k, v in p.items() if k in known}, "modality": Modality(p["modality"])})
                      for p in values["pairs"])
        return BundleManifest(
            name=values["name"], version=values["version"], licence=values["licence"], notice=values["notice"],
            folder=folder, files=values["files"], sha256=hashlib.sha256(text).hexdigest(),
            architecture=values["architecture"], pairs=pairs, training=values.get("training", {}),
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: is not a readable bundle description ({type(error).__name__}: {error}). "
                          "Install the bundle again.") from error
