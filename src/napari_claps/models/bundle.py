"""Loading a bundle: manifest, weights and tokenizer become three networks on one encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from napari_claps.device import choose_device
from napari_claps.errors import BundleError
from napari_claps.models.clip import ClipConfig, RetinalClip
from napari_claps.models.detector import DetectorConfig, RetinalDetector, TextFeatures
from napari_claps.models.manifest import BundleManifest, read_manifest
from napari_claps.models.segmenter import RetinalSam, SegmenterConfig

TEXT_FOLDER = "text"
WEIGHTS = ("clip", "detector", "segmenter")


@dataclass(frozen=True, eq=False)
class Bundle:
    """The networks of a bundle, ready on a device."""

    manifest: BundleManifest
    device: str
    clip: RetinalClip
    detector: RetinalDetector
    segmenter: RetinalSam

    def __post_init__(self) -> None:
        # Texts recur for every view of every image; the cache belongs to this bundle alone.
        object.__setattr__(self, "clip_text", lru_cache(maxsize=512)(self._clip_text))
        object.__setattr__(self, "detector_text", lru_cache(maxsize=64)(self._detector_text))

    def _clip_text(self, texts: tuple[str, ...]) -> Tensor:
        with torch.inference_mode():
            return self.clip.encode_text(texts)

    def _detector_text(self, texts: tuple[str, ...]) -> TextFeatures:
        with torch.inference_mode():
            return self.detector.encode_text(texts)


def load_bundle(name_or_folder: str | Path, *, device: str = "auto", verify: bool = True) -> Bundle:
    """Load a bundle.

    Parameters
    ----------
    name_or_folder : str or path
        Name of an installed bundle, or its folder.
    device : str
        As for `choose_device`.
    verify : bool
        Compare every file with its sha256 first.

    Raises
    ------
    BundleError
        If a file is missing or damaged, or does not fit the architecture.
    DeviceError
        If the device is not there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = choose_device(device)
    manifest = read_manifest(name_or_folder)
    if verify:
        manifest.verify()
    folder = manifest.folder
    try:
        arch = manifest.architecture
        clip = RetinalClip(ClipConfig(**arch["clip"]), folder / TEXT_FOLDER)
        segmenter = RetinalSam(clip, SegmenterConfig(**arch["segmenter"]))
        detector = RetinalDetector(DetectorConfig(**arch["detector"]), clip.text_transformer, clip.tokenizer)
        weights = {name: {k: v.float() if v.is_floating_point() else v
                          for k, v in load_file(folder / f"{name}.safetensors").items()} for name in WEIGHTS}
        clip.load_state_dict(weights["clip"])
        segmenter.load_head_state_dict(weights["segmenter"])
        detector.load_head_state_dict(weights["detector"])
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"Bundle {manifest.name} in {folder} cannot be loaded ({type(error).__name__}: "
                          f"{str(error)[:200]}). Install the bundle again.") from error
    for model in (clip, segmenter, detector):
        model.requires_grad_(False).eval().to(place)
    clip.model.visual.to(memory_format=torch.channels_last)
    segmenter.image_encoder.pixel_decoder.to(memory_format=torch.channels_last)
    return Bundle(manifest, place, clip, detector, segmenter)


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
