"""What a bundle says of itself in ``bundle.toml``, and where bundles are; readable without torch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from napari_claps.errors import BundleError, InputError
from napari_claps.files.schema import Part, Switch, checked, checked_fields, parse_toml
from napari_claps.types import Modality, Prompt
from napari_claps.words.vocabulary import TARGETS

PACKAGED = Path(__file__).parents[2] / "bundles"
"""Folder of the bundles that come with the package."""

PARTS = ("clip", "detector", "segmenter")
"""The networks a bundle can have."""

DTYPES = ("float32", "bfloat16", "float16")
"""Types in which the networks may compute."""

logger = logging.getLogger(__name__)


def models_folder(folder: str | Path | None = None) -> Path:
    """Folder of the user's own bundles and downloads: the given one, else ``CLAPS_MODELS``, else in the user's cache.

    It need not exist.
    """
    given = folder or os.environ.get("CLAPS_MODELS")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("napari-claps", appauthor=False) / "models"


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
    calibration : mapping of str to float
        Offset and slopes that turn scores into the probability of presence (`napari_claps.trust.calibration`);
        `presence` is then in its units. Empty if it was not calibrated.
    inner, outer : mapping of str to float
        Thresholds of the sure and of the possible pixels, by coverage ("0.9"; `napari_claps.trust.conformal`).
    n_inner, n_outer : int
        Number of images they were calibrated on.
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
    calibration: Mapping[str, float] = field(default_factory=dict, hash=False)
    inner: Mapping[str, float] = field(default_factory=dict, hash=False)
    outer: Mapping[str, float] = field(default_factory=dict, hash=False)
    n_inner: int = 0
    n_outer: int = 0

    def __post_init__(self) -> None:
        if self.calibration and "offset" not in self.calibration:
            raise ValueError(f"calibration of {self.target} has no offset")


@dataclass(frozen=True)
class BundleManifest:
    """Content of ``bundle.toml``; `sha256` is that of the file itself, which lists those of all others.

    Parameters
    ----------
    name, version, licence, notice : str
    folder : Path
    files : mapping of str to str
        sha256 of each file.
    sha256 : str
    architecture : mapping of str to mapping
        Per part (`PARTS`): its ``kind``, absent for our own networks, and its configuration. A part may be missing.
    pairs : tuple of Pair
        What it finds. For a bundle made for any target, these are all that exist, with the same values each.
    training : mapping
        Provenance of the weights.
    common : mapping or None
        Values of every pair, of a bundle made for any target.
    signature : bool
        Whether texts carry the modality signature: a detector trained without gets the bare name.
    device, dtype : str
        Where and in which type it computes, unless the user says another device.
    mirrored : tuple of Modality
        Whose images are looked at mirrored too, because that made their masks better.
    """

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
    common: Mapping[str, Any] | None = None
    signature: bool = True
    device: str = "auto"
    dtype: str = "float32"
    mirrored: tuple[Modality, ...] = ()

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

    def free_pair(self, modality: Modality, text: str) -> Pair:
        """Thresholds of a free text: those of any target, or the defaults with a presence of which it must be sure."""
        return Pair(modality, text, **({"presence": 0.5} if self.common is None else self.common))

    def worded(self, prompt: Prompt) -> Prompt:
        """The prompt in the words that the bundle knows: without the signature where it was not trained with it."""
        if self.signature:
            return prompt
        return replace(prompt, text=TARGETS[prompt.target].name if prompt.target else prompt.label)

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
            if sha256_of(path) != expected:
                raise BundleError(f"Bundle {self.name}: {path} is damaged (its sha256 is not the one in bundle.toml). "
                                  "Install the bundle again.")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, which may be larger than the memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bundle_folders(folder: str | Path | None = None) -> list[Path]:
    """Folders of the bundles that come with the package, then of the user's (see `models_folder`)."""
    return [p.parent for place in (PACKAGED, models_folder(folder)) for p in sorted(place.glob("*/bundle.toml"))]


def available_bundles(folder: str | Path | None = None) -> list[BundleManifest]:
    """Bundles that come with the package, then the user's; one that cannot be read is reported in the log."""
    found = []
    for place in bundle_folders(folder):
        try:
            found.append(read_manifest(place))
        except BundleError as error:
            logger.warning("%s", error)
    return found


def read_manifest(name_or_folder: str | Path, folder: str | Path | None = None) -> BundleManifest:
    """Read a bundle by its name, or from a folder.

    Parameters
    ----------
    name_or_folder : str or path
        Folder of a bundle, or the name of one that comes with the package or is in the user's folder.
    folder : path, optional
        The user's folder, as for `models_folder`.

    Raises
    ------
    BundleError
        If there is none, or its ``bundle.toml`` cannot be read.
    """
    place = Path(name_or_folder)
    if not (place / "bundle.toml").is_file():
        folders = bundle_folders(folder)
        place = next((f for f in folders if f.name == str(name_or_folder)), place)
        if place not in folders:
            names = ", ".join(f.name for f in folders) or "none"
            raise BundleError(f"There is no bundle {str(name_or_folder)!r}: neither a folder with a bundle.toml nor "
                              f"an installed one. Installed: {names}.")
    path = place / "bundle.toml"
    try:
        text = path.read_bytes()
        values = parse_toml(text.decode("utf-8"))
        content = checked(_Description, values)
        common = _known(content.any_target or {})
        pairs = tuple(Pair(Modality(p["modality"]), **_known(p)) for p in content.pairs)
        unknown = [p.target for p in pairs if p.target not in TARGETS]
        if unknown:
            raise ValueError(f"this version does not know the target {unknown[0]!r}; update napari-claps")
        if content.any_target is not None:
            pairs += tuple(Pair(modality, target=target.id, **common) for modality in Modality
                           for target in TARGETS.values() if modality in target.modalities)
        manifest = BundleManifest(
            name=content.name, version=content.version, licence=content.licence, notice=content.notice,
            folder=place, files=content.files, sha256=hashlib.sha256(text).hexdigest(),
            architecture=content.architecture, pairs=pairs, training=content.training,
            common=None if content.any_target is None else common, signature=content.prompts.signature,
            device=content.device.name, dtype=content.device.dtype, mirrored=content.views.mirrored,
        )
        if manifest.dtype not in DTYPES:
            raise ValueError(f"dtype = {manifest.dtype!r} is none of {', '.join(DTYPES)}")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:  # TOML and UTF-8 errors are ValueErrors
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise BundleError(f"{path}: is not a readable bundle description ({kind}{error}). "
                          "Install the bundle again.") from error


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields of a `Pair` besides the modality, each of its type; a bundle may note others."""
    names = {f.name for f in fields(Pair)} - {"modality"}
    return checked_fields(Pair, {k: v for k, v in values.items() if k in names})


class _Prompts(Part):
    signature: Switch = True


class _Device(Part):
    name: str = "auto"
    dtype: str = "float32"


class _Views(Part):
    mirrored: tuple[Modality, ...] = ()


class _Description(Part):
    """Content of a ``bundle.toml``."""

    name: str
    version: str
    licence: str
    notice: str
    files: dict[str, str]
    architecture: dict[str, dict[str, Any]]
    pairs: tuple[dict[str, Any], ...] = ()
    any_target: dict[str, Any] | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    prompts: _Prompts = _Prompts()
    device: _Device = _Device()
    views: _Views = _Views()
