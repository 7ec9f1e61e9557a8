"""The settings of a run: one frozen dataclass, the only place of their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from napari_claps.methods import find_method


@dataclass(frozen=True)
class Settings:
    """Everything that decides a result besides image, targets and bundle.

    Parameters
    ----------
    modality : str
        ``"auto"`` or a modality id.
    method : str
        How regions are found; one of `napari_claps.methods.METHODS`.
    bundle : str
        Name of an installed bundle, or a folder.
    models_folder : str
        Folder of the user's own bundles; empty takes ``CLAPS_MODELS``, else the user's cache.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    score_threshold : float or None
        Lowest score of an object that is kept; ``None`` takes the bundle's own threshold per target.
    batch_size : int
        Slices that go through the encoder together; more than 1 pays on a GPU only.
    link_slices : bool
        In an OCT volume, give an object that goes through several B-scans one number, and damp flickers.
    seed : int
        For every random number; the default run draws none.
    uncertainty : bool
        Repeat each slice with flips, shifted boxes and other wordings, and keep the entropy per pixel. Takes several
        times as long.
    mirrored : bool
        Look at a slice mirrored too and take the mean, in the modalities for which the bundle asks for it: better masks
        in about four times the time. False looks once.
    coverage : float or None
        Also give, for each target, an inner mask (pixels that are sure) and an outer mask (pixels that cannot be
        excluded): on average over images, the outer mask holds this share of the true pixels, and this share of the
        inner mask is true. At least 0.5 and below 1; needs a bundle that was calibrated for it.
    """

    modality: str = "auto"
    method: str = "claps"
    bundle: str = "claps-tiny"
    models_folder: str = ""
    device: str = "auto"
    score_threshold: float | None = None
    batch_size: int = 1
    link_slices: bool = True
    seed: int = 0
    uncertainty: bool = False
    mirrored: bool = True
    coverage: float | None = None

    def __post_init__(self) -> None:
        find_method(self.method)
        if self.coverage is not None and not 0.5 <= self.coverage < 1:
            raise InputError(f"coverage = {self.coverage} must be at least 0.5 and below 1; 0.8 and 0.9 are usual.")
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise InputError(f"score_threshold = {self.score_threshold} must lie between 0 and 1.")
        if self.batch_size < 1:
            raise InputError(f"batch_size = {self.batch_size} must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed = {self.seed} must be a whole number from 0 to {2**32 - 1}.")
        for name in ("modality", "bundle", "models_folder", "device"):
            if "\0" in getattr(self, name):
                raise InputError(f"{name} = {getattr(self, name)!r} has a character that no name has.")

    @classmethod
    def from_toml(cls, path: str | Path) -> tuple[Settings, list[str]]:
        """Read settings, and the list of targets if there is one.

        Parameters
        ----------
        path : path to a TOML file with the field names above, and optionally ``targets = [...]``.

        Returns
        -------
        settings : Settings
        targets : list of str

        Raises
        ------
        InputError
            If the file cannot be read, or has an unknown key or a value of the wrong type.
        """
        from napari_claps.files.schema import parse_toml

        path = Path(path)
        try:
            values = parse_toml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read the settings ({error.strerror}).") from error
        except ValueError as error:
            raise InputError(f"{path}: is not valid TOML ({error}).") from error
        targets = values.pop("targets", [])
        if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
            raise InputError(f"{path}: targets = {str(targets)[:60]} must be a list of texts.")
        return cls().updated(values, where=str(path)), targets

    def updated(self, values: Mapping[str, Any], *, where: str = "") -> Settings:
        """Return a copy with `values` replaced; unknown names and wrong types are refused.

        Parameters
        ----------
        values : mapping
            Names of fields, and plain values.
        where : str
            File, for the message.

        Raises
        ------
        InputError
            If a name is unknown, or a value of the wrong type or out of range.
        """
        from napari_claps.files.schema import checked_fields  # its library takes a while to load

        known, start = sorted(field.name for field in dataclasses.fields(self)), f"{where}: " if where else ""
        if unknown := [name for name in values if name not in known]:
            raise InputError(f"{start}unknown setting {str(unknown[0])[:60]!r}. Known are: {', '.join(known)}.")
        try:
            return dataclasses.replace(self, **checked_fields(Settings, values))
        except InputError as error:
            raise InputError(f"{start}{error}") from error
