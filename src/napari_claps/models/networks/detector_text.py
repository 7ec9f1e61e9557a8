"""The text side of the detector: a caption of several texts through the shared BERT."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from napari_claps.models.networks.detector_import import (
    BertModelWarper,
    generate_masks_with_special_tokens_and_transfer_map,
    get_tokenlizer,
)

_SEPARATORS = str.maketrans(".?[]", "    ")
"""Marks that would end a text in the caption, alone or as in "[SEP]"."""


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Texts after the text encoder; the same for every image, so it can be kept.

    Parameters
    ----------
    texts : tuple of str
        The T texts.
    tokens : Tensor
        (L, W) float, states of the L tokens of the caption "text . text . ".
    attention : Tensor
        (L, L) bool, True between tokens of the same text.
    positions : Tensor
        (L,) int, place of a token within its text.
    members : Tensor
        (T, L) bool, the tokens of each text, without the full stop.
    """

    texts: tuple[str, ...]
    tokens: Tensor
    attention: Tensor
    positions: Tensor
    members: Tensor


class SharedBert(BertModelWarper):
    """The official wrapper, which lets each text of a caption see only itself."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__(bert)
        del self.get_extended_attention_mask  # of transformers: warns about an argument, loses the dtype

    def get_extended_attention_mask(self, mask: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
        dtype = self.embeddings.word_embeddings.weight.dtype
        return (~mask[:, None]).to(dtype) * torch.finfo(dtype).min


def clean_texts(texts: Sequence[str]) -> list[str]:
    """Texts without the marks that separate texts in a caption.

    Raises
    ------
    ValueError
        If there are none or one has no words.
    """
    cleaned = [" ".join(text.translate(_SEPARATORS).split()) for text in texts]
    if not cleaned or not all(cleaned):
        raise ValueError(f"Texts without words cannot be looked for: {list(texts)}.")
    return cleaned


@torch.no_grad()
def encode_texts(
    texts: Sequence[str], bert: SharedBert, tokenizer: PreTrainedTokenizerBase, separators: Sequence[int]
) -> TextFeatures:
    """Run `bert` on the caption "text . text . "; `separators` are the tokens that end a text.

    Raises
    ------
    ValueError
        If there are no texts or one has no words.
    """
    cleaned = clean_texts(texts)
    caption = " . ".join(cleaned) + " ."
    device = bert.embeddings.word_embeddings.weight.device
    tokenized = tokenizer([caption], return_tensors="pt", verbose=False).to(device)
    attention, positions, members = generate_masks_with_special_tokens_and_transfer_map(
        tokenized, separators, tokenizer
    )
    if members[0].shape[0] != len(cleaned) or not members[0].any(1).all():
        raise ValueError(f"The tokenizer splits these texts at other places than their ends: {cleaned}.")
    state = bert(
        input_ids=tokenized["input_ids"],
        token_type_ids=torch.zeros_like(tokenized["input_ids"]),
        attention_mask=attention,
        position_ids=positions,
        return_dict=True,
    )
    return TextFeatures(tuple(texts), state.last_hidden_state[0], attention[0], positions[0], members[0])


_building = threading.Lock()


def placeholder_bert(width: int) -> BertModel:
    """A minute BERT of the right width, to be replaced."""
    return BertModel(BertConfig(vocab_size=8, hidden_size=width, num_hidden_layers=1, num_attention_heads=1,
                                intermediate_size=8))


@contextmanager
def ready_text_encoder(tokenizer: PreTrainedTokenizerBase, bert: BertModel) -> Iterator[None]:
    """Let GroundingDINO be built without looking for a text encoder on disk or in the network.

    Its constructor takes only the name of one; it gets this tokenizer and this BERT.
    """
    with _building:
        official = get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model
        get_tokenlizer.get_tokenlizer = lambda name: tokenizer
        get_tokenlizer.get_pretrained_language_model = lambda name: bert
        try:
            yield
        finally:
            get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model = official
