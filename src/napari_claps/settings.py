"""The settings of a run: one frozen dataclass, the only place of their defaults."""

from __future__ import annotations

import dataclasses
import tomllib
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
        path = Path(path)
        try:
            values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read the settings ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: is not valid TOML ({error}).") from error
        targets = values.pop("targets", [])
        if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
            raise InputError(f"{path}: targets = {targets!r} must be a list of texts.")
        return cls().updated(values, where=str(path)), targets

    def updated(self, values: dict[str, Any], *, where: str = "settings") -> Settings:
        """Return a copy with `values` replaced; unknown names and wrong types are refused."""
        number, switch = (float, int, type(None)), (bool,)
        kinds = {"score_threshold": number, "coverage": number, "batch_size": (int,), "seed": (int,),
                 "link_slices": switch, "uncertainty": switch, "mirrored": switch}
        known = {f.name for f in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in known:
                raise InputError(f"{where}: unknown setting {name!r}. Known are: {', '.join(sorted(known))}.")
            kind = kinds.get(name, (str,))
            if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
                raise InputError(f"{where}: {name} = {value!r} has the wrong type.")
        return dataclasses.replace(self, **values)
