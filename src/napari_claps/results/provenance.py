"""Where a result comes from: enough to repeat it, and nothing about the patient but the file name."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_claps import __version__
from napari_claps.measurement import scale_source
from napari_claps.settings import Settings
from napari_claps.types import ModalityGuess, Prompt, RetinalImage

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import BundleManifest

LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "segment-anything", "groundingdino-py",
             "transformers", "numpy", "scipy", "scikit-image", "pandas", "tifffile", "pillow")
"""Distributions whose version can change a result or a file."""

THRESHOLDS = ("threshold", "presence", "text_weight", "box_threshold", "min_area")
"""Fields of a bundle's `Pair` that decide what is found."""


def library_versions() -> dict[str, str | None]:
    """Return the versions of Python, of this package and of the libraries; None where one is missing."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "napari-claps": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def machine() -> dict[str, Any]:
    """Return what of a machine can change the last bits of a result; nothing that names it.

    What torch knows is there once torch is imported, as it is when networks have run.
    """
    facts: dict[str, Any] = {"platform": f"{platform.system()} {platform.machine()}"}
    if torch := sys.modules.get("torch"):
        facts["cpu"] = torch.backends.cpu.get_cpu_capability()
        facts["threads"] = torch.get_num_threads()
        facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts


class MaskDigests:
    """SHA-256 of the masks of a result, as they come: of masks as such, not of a file, which depends on a library.

    Parameters
    ----------
    labels : sequence of str
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._digests = {label: hashlib.sha256() for label in labels}

    def add(self, masks: Mapping[str, np.ndarray]) -> None:
        """Take the (y, x) instance numbers of the next slice."""
        for label, digest in self._digests.items():
            digest.update(np.ascontiguousarray(masks[label], "<u2").tobytes())

    @property
    def sha256(self) -> dict[str, str]:
        """Per label: of its planes as little-endian uint16, in the order in which the slices came."""
        return {label: digest.hexdigest() for label, digest in self._digests.items()}


def provenance(image: RetinalImage, asked: Mapping[str, Any], *, manifest: BundleManifest, settings: Settings,
               device: str, modality: ModalityGuess, prompts: tuple[Prompt, ...], slices: list[int],
               seconds: Mapping[str, float], method_settings: Mapping[str, Any] | None = None,
               warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of ``provenance.json``.

    Parameters
    ----------
    image : RetinalImage
    asked : mapping
        What the run was asked for, see `napari_claps.study.request.Request.facts`.
    manifest, settings, device, modality, prompts
        What was really used.
    slices : list of int
        Slices that were looked at.
    seconds : mapping of stage to float
        Summed over the slices.
    method_settings : mapping, optional
        Of a method that has some besides the thresholds of the bundle.
    warnings : sequence of str
        What the user was warned of.
    """
    return {
        "program": f"napari-claps {__version__}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": manifest.notice,
        "input": {
            "name": Path(image.source).name,
            "sha256": asked["input_sha256"],
            "shape": list(image.data.shape),
            "dtype": str(image.data.dtype),
            "rgb": image.rgb,
            "laterality": image.laterality,
        },
        "spacing": {
            "mm": None if image.spacing is None else list(image.spacing),
            "axes": "zyx" if image.is_volume else "yx",
            "source": str(scale_source(image)),
            # Of a volume without a distance of slices: the areas in the table are from it.
            **({"plane_mm": list(image.plane_spacing)} if image.spacing is None and image.plane_spacing else {}),
        },
        "modality": {
            "id": str(modality.modality),
            "decided_by": modality.decided_by,
            "probability": modality.probability,
            "probabilities": {str(name): float(p) for name, p in modality.probabilities.items()},
        },
        "bundle": {"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256},
        "prompts": [{"label": p.label, "text": p.text, "target": p.target} for p in prompts],
        "thresholds": {p.label: _thresholds(p, manifest, modality) for p in prompts},
        "score_threshold": settings.score_threshold,
        "slices": slices,
        "region": asked.get("region"),
        "method": settings.method,
        "method_settings": dict(method_settings or {}),
        "uncertainty": {"unit": "bit", "what": "entropy of the mean of an ensemble"} if settings.uncertainty else None,
        "coverage": settings.coverage,
        "warnings": list(warnings),
        "device": device,
        "machine": machine(),
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
        "versions": library_versions(),
        "request": dict(asked),
    }


def _thresholds(prompt: Prompt, manifest: BundleManifest, modality: ModalityGuess) -> dict[str, float] | None:
    """Return the numbers of the bundle that decided for this target; None for free text, which has the defaults."""
    pair = manifest.pair(modality.modality, prompt.target) if prompt.target else None
    return None if pair is None else {name: getattr(pair, name) for name in THRESHOLDS}
