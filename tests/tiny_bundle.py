"""A bundle of the real classes with a few channels and random weights."""

from __future__ import annotations

import string
from dataclasses import asdict, replace
from pathlib import Path

import torch

from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector
from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig
from napari_claps.types import Modality
from napari_claps.words.vocabulary import MODALITIES, TARGETS
from training.stages.export import write_manifest

TRUNK = "tf_efficientnet_lite0"
PAIRS = {
    Modality.CFP: ("vessel", "optic_disc", "optic_cup", "microaneurysm", "hard_exudate"),
    Modality.OCT: ("drusen", "intraretinal_fluid", "subretinal_fluid", "retina", "rpe_bm_complex"),
}


def write_text_folder(folder: Path) -> None:
    """A BERT of one layer, whose vocabulary holds letters and the words of the vocabularies."""
    from transformers import BertConfig, BertTokenizerFast

    words = {w for t in TARGETS.values() for w in f"{t.name} {t.description}".lower().split()}
    words |= {w for m in MODALITIES.values() for w in m.signature.lower().split()}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ",", "-", "/", "'",
              *string.ascii_lowercase, *string.digits, *(f"##{c}" for c in string.ascii_lowercase + string.digits),
              *sorted(w for w in words if w.isalpha() and len(w) > 1)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    BertConfig(vocab_size=len(pieces), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
               intermediate_size=64, max_position_embeddings=128, pad_token_id=0).save_pretrained(folder)


def write_tiny_bundle(folder: Path) -> Path:
    """Write the bundle and return its folder."""
    from napari_claps.models.bundles.bundle import save_bundle_weights

    torch.manual_seed(0)
    text = folder.parent / "tiny_text"
    write_text_folder(text)
    clip_config = ClipConfig(TRUNK, 16)
    segmenter_config = SegmenterConfig(dim=32, widths=(8, 8, 16, 16, 16), heads=2, depth=1, mlp=32,
                                       text_weights=True)
    detector_config = DetectorConfig(queries=6, encoder_layers=1, decoder_layers=1, feedforward=32)
    clip = RetinalClip(clip_config, text)
    plain = RetinalSam(clip, replace(segmenter_config, text_weights=False))
    detector = RetinalDetector(detector_config, clip.text_transformer, clip.tokenizer)
    segmenter = RetinalSam(clip, segmenter_config)  # its own weights are drawn last: what all others are stays the same
    segmenter.load_head_state_dict({**segmenter.head_state_dict(), **plain.head_state_dict()})
    save_bundle_weights(folder, clip, segmenter, detector)
    write_manifest(
        folder, name="tiny", version="0.0.1", licence="none", notice="Random weights for tests.",
        architecture={"clip": asdict(clip_config), "segmenter": asdict(segmenter_config),
                      "detector": asdict(detector_config)},
        pairs=[{"modality": str(m), "target": t, "threshold": 0.5, "presence": 0.0, "box_threshold": 0.0,
                "text_weight": 0.5, "min_area": 4}
               for m, targets in PAIRS.items() for t in targets],
        training={"steps": 0},
    )
    return folder
