"""What a study is asked to do, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_claps.errors import InputError
from napari_claps.settings import Settings

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import BundleManifest


@dataclass(frozen=True)
class Request:
    """What is looked for in an image, and how.

    Parameters
    ----------
    targets : tuple of str
        Ids, synonyms or free texts; none means all that the bundle knows in the modality.
    settings : Settings
    slices : str or None
        ``START:STOP:STEP`` as in Python, or one number, for volumes; None takes all.
    region : tuple of int or None
        (y0, x0, y1, x1) in pixels, end exclusive.
    check_prompts : bool
        Also run the slice with most findings with other texts, to see whether its masks depend on the text.
    """

    targets: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    slices: str | None = None
    region: tuple[int, int, int, int] | None = None
    check_prompts: bool = False

    def facts(self, input_sha256: str | None, manifest: BundleManifest) -> dict[str, Any]:
        """Return it in plain JSON types; two runs with the same facts have the same result.

        Device and batch size are not part of it: they change the time, not the result.

        Parameters
        ----------
        input_sha256 : str or None
            Of the file; None where the pixels came from no file.
        manifest : BundleManifest
        """
        settings = self.settings
        return {
            "input_sha256": input_sha256,
            "bundle_sha256": manifest.sha256,
            "targets": list(self.targets) or "all",
            "slices": self.slices,
            "region": None if self.region is None else list(self.region),
            "modality": settings.modality,
            "method": settings.method,
            "score_threshold": settings.score_threshold,
            "link_slices": settings.link_slices,
            "uncertainty": settings.uncertainty,
            "mirrored": settings.mirrored,
            "coverage": settings.coverage,
            "seed": settings.seed,
            "check_prompts": self.check_prompts,
        }


def slices_text(indices: Sequence[int] | None) -> str | None:
    """``START:STOP:STEP`` of evenly spaced, ascending slice numbers; None for None or none.

    Raises
    ------
    InputError
        If they are not evenly spaced.

    Examples
    --------
    >>> slices_text([3]), slices_text([2, 4, 6]), slices_text(None)
    ('3', '2:7:2', None)
    """
    if not indices:
        return None
    if len(indices) == 1:
        return str(indices[0])
    step = indices[1] - indices[0]
    if list(indices) != list(range(indices[0], indices[-1] + 1, max(step, 1))):
        raise InputError(f"The slices {list(indices)} are not evenly spaced and ascending: take them in several runs.")
    return f"{indices[0]}:{indices[-1] + 1}" + (f":{step}" if step > 1 else "")
