"""The text tower that a bundle carries."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig

from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from napari_claps.words.readable_text import MAX_TEXT
from tests.tiny_bundle import TRUNK, write_text_folder
from training.stages.text_base import READ_POSITIONS, cut_positions


def test_positions_that_no_text_reaches_are_dropped(tmp_path: Path) -> None:
    write_text_folder(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    config.max_position_embeddings = 512
    config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    clip = RetinalClip(ClipConfig(TRUNK, 16), tmp_path).eval()
    texts = ["optic disc", "x" * MAX_TEXT]
    before = clip.encode_text(texts)
    whole = clip.tokenizer(["q w " * (MAX_TEXT // 4)], return_tensors="pt")["input_ids"]  # as the detector reads it
    words = clip.text_transformer(whole).last_hidden_state
    cut_positions(clip)
    assert clip.text_transformer.config.max_position_embeddings == READ_POSITIONS
    assert len(clip.text_transformer.embeddings.position_embeddings.weight) == READ_POSITIONS
    assert torch.equal(clip.encode_text(texts), before)
    assert torch.equal(clip.text_transformer(whole).last_hidden_state, words)
    cut_positions(clip)  # a second time changes nothing
    again = RetinalClip(ClipConfig(TRUNK, 16), tmp_path)
    assert len(again.text_transformer.embeddings.position_embeddings.weight) == 512


def test_every_text_that_is_read_has_its_positions() -> None:
    assert MAX_TEXT + 8 <= READ_POSITIONS  # every letter a word piece, and the marks around it
