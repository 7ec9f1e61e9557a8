"""Loading a bundle: manifest, weights and tokenizer become networks, on one shared encoder or on one each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_claps.device import choose_device
from napari_claps.errors import BundleError
from napari_claps.models.bundles.manifest import BundleManifest, read_manifest
from napari_claps.models.networks.clip import ClipConfig, ImageFeatures, RetinalClip
from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector, TextFeatures
from napari_claps.models.networks.dino_config import DinoConfig
from napari_claps.models.networks.official_clip import OpenClip, ViewFeatures
from napari_claps.models.networks.official_dino import Captions, OfficialDetector
from napari_claps.models.networks.official_sam import OfficialSam, SamConfig
from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig

TEXT_FOLDER = "text"
CLIP_FOLDER = "clip"
WEIGHTS = ("clip", "detector", "segmenter")


@dataclass(frozen=True, eq=False)
class Bundle:
    """The networks of a bundle, ready on a device.

    Our own networks share one encoder; official ones (open_clip, GroundingDINO, SAM) have one each. A part that the
    bundle does not have is None: `require` says what that means.
    """

    manifest: BundleManifest
    device: str
    clip: RetinalClip | OpenClip | None
    detector: RetinalDetector | OfficialDetector | None
    segmenter: RetinalSam | OfficialSam | None
    clip_text: Callable[[tuple[str, ...]], Tensor] = field(init=False, repr=False)
    detector_text: Callable[[tuple[str, ...]], TextFeatures | Captions] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Texts recur for every view of every image; the cache belongs to this bundle alone.
        object.__setattr__(self, "clip_text", lru_cache(maxsize=512)(self._clip_text))
        object.__setattr__(self, "detector_text", lru_cache(maxsize=64)(self._detector_text))

    def _clip_text(self, texts: tuple[str, ...]) -> Tensor:
        clip = self.require_clip("comparing images with words", "Use --method claps")
        with torch.inference_mode(), self.precision():
            return clip.encode_text(texts).float()

    def _detector_text(self, texts: tuple[str, ...]) -> TextFeatures | Captions:
        if self.detector is None:
            raise BundleError(f"Bundle {self.manifest.name} has no detector (GroundingDINO): see claps models import.")
        with torch.inference_mode(), self.precision():
            return self.detector.encode_text(texts)

    def encode(self, views: Tensor, *, masks_of: str = "") -> ImageFeatures | ViewFeatures:
        """Features of views (B, 3, H, W) in [0, 1]: of the shared encoder, or the views for each part's own.

        Where only the masks of a modality are wanted, `masks_of`, the shared encoder is spared if their head has a
        trunk of its own.
        """
        if self.clip is None:
            return ViewFeatures(views, None)
        if (isinstance(self.segmenter, RetinalSam) and isinstance(self.clip, RetinalClip)
                and masks_of in self.segmenter.config.own_trunks):
            return self.clip.normalise(views)
        return self.clip.encode_image(views)

    @property
    def takes_text(self) -> bool:
        """Whether the mask head takes words as a prompt; the official SAM takes boxes and points."""
        return isinstance(self.segmenter, RetinalSam)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Within it the networks compute in the type that the bundle asks for."""
        dtype = getattr(torch, self.manifest.dtype)
        return contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(self.device, dtype)

    def check_finite(self, *values: Tensor) -> None:
        """Refuse values that are no numbers: they would pass for an absent target.

        Raises
        ------
        BundleError
        """
        if all(bool(torch.isfinite(v).all()) for v in values):
            return
        hint = ("Half precision is too coarse for it: set dtype = \"float32\" under [device] in its bundle.toml."
                if self.manifest.dtype != "float32" else "Its weights are damaged: see claps models verify.")
        raise BundleError(f"The networks of bundle {self.manifest.name} gave values that are no numbers (NaN or "
                          f"infinite) for this image. {hint}")

    def lacks(self) -> dict[str, str]:
        """Why each part cannot be used, empty where it can.

        A mask head that takes words needs no detector: the text alone finds the regions.
        """
        if self.clip is None:
            clip = "no CLIP"
        else:
            clip = "" if getattr(self.clip, "has_text", True) else "the CLIP has no text tower"
        return {"clip": clip, "segmenter": "" if self.segmenter is not None else "no mask head (SAM)",
                "detector": "" if self.detector is not None or self.takes_text else "no detector (GroundingDINO)"}

    def require_segmenter(self) -> RetinalSam | OfficialSam:
        """Return the mask head, without which nothing can be segmented.

        Raises
        ------
        BundleError
        """
        if self.segmenter is None:
            raise BundleError(f"Bundle {self.manifest.name} has no mask head (SAM): import one, see claps "
                              "models import.")
        return self.segmenter

    def require_clip(self, purpose: str, way_out: str) -> RetinalClip | OpenClip:
        """Return the CLIP with its words, or refuse what needs them.

        Raises
        ------
        BundleError
        """
        reason = self.lacks()["clip"]
        if self.clip is None or reason:
            raise BundleError(f"Bundle {self.manifest.name} cannot be used for {purpose}: {reason}. {way_out}, or "
                              "import the missing part; see claps models import.")
        return self.clip


def load_bundle(name_or_folder: str | Path, *, device: str = "auto", verify: bool = True,
                models_folder: str = "") -> Bundle:
    """Load a bundle.

    Parameters
    ----------
    name_or_folder : str or path
        Name of an installed bundle, or its folder.
    device : str
        As for `choose_device`; with ``"auto"`` the bundle's own choice comes first.
    verify : bool
        Compare every file with its sha256 first.
    models_folder : str
        Where the user's bundles are, as in `Settings`.

    Raises
    ------
    BundleError
        If a file is missing or damaged, or does not fit the architecture.
    DeviceError
        If the device is not there.
    """
    from safetensors import SafetensorError

    manifest = read_manifest(name_or_folder, models_folder)
    place = choose_device(manifest.device if device == "auto" else device)
    if verify:
        manifest.verify()
    try:
        clip = _load_clip(manifest)
        segmenter = _load_segmenter(manifest, clip)
        detector = _load_detector(manifest, clip)
    except (OSError, AssertionError, LookupError, TypeError, ValueError, AttributeError, RuntimeError,
            SafetensorError) as error:  # RecursionError is a RuntimeError
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"Bundle {manifest.name} in {manifest.folder} cannot be loaded ({type(error).__name__}: "
                          f"{' '.join(str(error).split())[:200]}). Install the bundle again.") from error
    for model in (clip, segmenter, detector):
        if model is not None:
            model.requires_grad_(False).eval().to(place)
    if isinstance(clip, RetinalClip):
        clip.model.visual.to(memory_format=torch.channels_last)
    if isinstance(segmenter, RetinalSam):
        segmenter.image_encoder.pixel_decoder.to(memory_format=torch.channels_last)
        segmenter.image_encoder.own_pixel_decoders.to(memory_format=torch.channels_last)
        segmenter.image_encoder.own_trunks.to(memory_format=torch.channels_last)
    return Bundle(manifest, place, clip, detector, segmenter)


def _part(manifest: BundleManifest, name: str, kinds: tuple[str, ...]) -> tuple[str, dict[str, Any]] | None:
    """Kind ("" = our own) and configuration of a part, or None if the bundle does not have it."""
    if name not in manifest.architecture:
        return None
    values = dict(manifest.architecture[name])
    kind = values.pop("kind", "")
    if kind not in ("", *kinds):
        raise BundleError(f"{manifest.folder / 'bundle.toml'}: architecture.{name} has kind {kind!r}, which this "
                          f"version does not know. It knows: {', '.join(kinds)}. Update napari-claps.")
    return kind, values


def _weights(manifest: BundleManifest, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    loaded = load_file(manifest.folder / f"{name}.safetensors")
    return {k: v.float() if v.is_floating_point() else v for k, v in loaded.items()}


def _load_clip(manifest: BundleManifest) -> RetinalClip | OpenClip | None:
    part = _part(manifest, "clip", ("open_clip",))
    if part is None:
        return None
    kind, values = part
    if kind == "open_clip":
        return OpenClip(manifest.folder / CLIP_FOLDER, has_text=values.get("text", True))
    clip = RetinalClip(ClipConfig(**values), manifest.folder / TEXT_FOLDER)
    clip.load_state_dict(_weights(manifest, "clip"))
    return clip


def _load_segmenter(manifest: BundleManifest, clip: object) -> RetinalSam | OfficialSam | None:
    part = _part(manifest, "segmenter", ("sam-vit",))
    if part is None:
        return None
    kind, values = part
    if kind == "sam-vit":
        official = OfficialSam(SamConfig(**values))
        official.load_state_dict(_weights(manifest, "segmenter"))
        return official
    segmenter = RetinalSam(_our_clip(clip, manifest), SegmenterConfig(**values))
    segmenter.load_head_state_dict(_weights(manifest, "segmenter"))
    return segmenter


def _load_detector(manifest: BundleManifest, clip: object) -> RetinalDetector | OfficialDetector | None:
    part = _part(manifest, "detector", ("groundingdino-swin",))
    if part is None:
        return None
    kind, values = part
    if kind == "groundingdino-swin":
        official = OfficialDetector(DinoConfig(**values), manifest.folder / TEXT_FOLDER)
        official.load_weights(_weights(manifest, "detector"))
        return official
    ours = _our_clip(clip, manifest)
    detector = RetinalDetector(DetectorConfig(**values), ours.text_transformer, ours.tokenizer)
    detector.load_head_state_dict(_weights(manifest, "detector"))
    return detector


def _our_clip(clip: object, manifest: BundleManifest) -> RetinalClip:
    """The shared encoder, without which our heads are nothing."""
    if not isinstance(clip, RetinalClip):
        raise BundleError(f"Bundle {manifest.name} in {manifest.folder} has a head of this project without its "
                          "encoder: the CLIP of the same training is missing. Import them together.")
    return clip


def save_bundle_weights(folder: Path, clip: RetinalClip, segmenter: RetinalSam, detector: RetinalDetector) -> None:
    """Write the weights of a bundle as fp16 safetensors, and the text folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"clip": clip.state_dict(), "segmenter": segmenter.head_state_dict(),
             "detector": detector.head_state_dict()}
    for name, state in parts.items():
        half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
        save_file(half, folder / f"{name}.safetensors")
        (folder / f"{name}.safetensors").chmod(0o644)  # safetensors writes 0600, which would be so in the wheel
    clip.tokenizer.save_pretrained(folder / TEXT_FOLDER)
    for name in ("special_tokens_map.json", "vocab.txt"):  # both are inside tokenizer.json
        (folder / TEXT_FOLDER / name).unlink(missing_ok=True)
    config = clip.text_transformer.config
    config._name_or_path = ""
    config.save_pretrained(folder / TEXT_FOLDER)
