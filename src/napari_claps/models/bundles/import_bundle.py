"""A bundle made of checkpoints that the user has: official ones, or those of our training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from napari_claps.errors import BundleError
from napari_claps.files.atomic import atomic_path
from napari_claps.models.bundles.bundle import CLIP_FOLDER, TEXT_FOLDER, load_bundle
from napari_claps.models.bundles.checkpoint_file import CheckpointFile, read_checkpoint
from napari_claps.models.bundles.manifest import PACKAGED, BundleManifest, models_folder, read_manifest, sha256_of
from napari_claps.models.bundles.registry import known_file
from napari_claps.models.networks.dino_config import DinoConfig
from napari_claps.models.networks.official_clip import CONFIG, WEIGHTS
from napari_claps.models.networks.official_sam import SamConfig

NOTICE = ("Imported weights: how well they do on retinal images was not measured here. Research use only, not for "
          "clinical decisions.")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
                    "merges.txt", "spiece.model", "added_tokens.json")


@dataclass
class _Parts:
    """What was found in the given files, on the way to a bundle."""

    architecture: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    sources: list[dict[str, str]] = field(default_factory=list)
    licences: list[str] = field(default_factory=list)


def import_bundle(sources: Sequence[str | Path], name: str, *, folder: str | Path | None = None,
                  clip_model: str | None = None, licence: str | None = None, dtype: str = "float32",
                  overwrite: bool = False) -> BundleManifest:
    """Build a bundle in the user's folder.

    Parameters
    ----------
    sources : sequence of path
        In any order: a SAM checkpoint; a GroundingDINO checkpoint and a BERT folder with ``config.json`` and
        tokenizer; an open_clip checkpoint or folder (also as ``local-dir:FOLDER``); or ``final.pt`` files of our
        training. At most one of each part.
    name : str
        Of the bundle; letters, digits, ``.``, ``_`` and ``-``.
    folder : path, optional
        The user's folder, as for `models_folder`.
    clip_model : str, optional
        Architecture of an open_clip checkpoint that does not bring ``open_clip_config.json``.
    licence : str, optional
        Of the weights; by default that of the registry for files it knows, else "unknown".
    dtype : str
        One of `napari_claps.models.bundles.manifest.DTYPES`.
    overwrite : bool
        Replace the user's bundle of that name.

    Raises
    ------
    BundleError
        If a file cannot be used, parts do not fit together, or the name is taken. Nothing is left then.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BundleError(f"{name!r} cannot be the name of a bundle: use letters, digits, '.', '_' and '-'.")
    target = models_folder(folder) / name
    if (PACKAGED / name).exists() or (target.exists() and not overwrite):
        raise BundleError(f"There is already a bundle {name!r}. Choose another --name"
                          + (", or give --overwrite." if target.exists() else "; this one came with the package."))
    parts = _Parts()
    berts = []
    trained = []
    for source in sources:
        path = Path(str(source).removeprefix("local-dir:")).expanduser()
        if not path.exists():
            raise BundleError(f"{path}: there is no such file or folder.")
        if path.is_dir():
            if (path / CONFIG).is_file():
                _add_clip_folder(parts, path)
            elif (path / "config.json").is_file():
                berts.append(path)
            else:
                raise BundleError(f"{path}: is neither an open_clip folder ({CONFIG}) nor a BERT folder (config.json).")
            continue
        file = read_checkpoint(path)
        if file.kind == "claps":
            trained.append(file)
        elif file.kind == "open_clip":
            _add_clip_file(parts, file, clip_model)
        else:
            _add_official(parts, file)
        _note_source(parts, path)
    _add_trained(parts, trained)
    _add_bert(parts, berts)
    with atomic_path(target) as temporary:
        _write(temporary, parts, name=name, licence=licence, dtype=dtype)
        _try(temporary)
    return read_manifest(target)


def _try(folder: Path) -> None:
    """Load the new bundle: what does not fit is said now, not at the first image."""
    try:
        load_bundle(folder, device="cpu")
    except BundleError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise BundleError(f"These files do not make a bundle: {reason} If a CLIP is among them, look whether "
                          "--clip-model is its architecture.") from error


def _take(parts: _Parts, part: str, path: Path, architecture: dict[str, Any]) -> None:
    if part in parts.architecture:
        raise BundleError(f"{path}: is a second {part}; a bundle has one. Give one file for each part.")
    parts.architecture[part] = architecture


def _note_source(parts: _Parts, path: Path) -> None:
    digest = sha256_of(path)
    known = known_file(digest)
    parts.sources.append({"file": path.name, "sha256": digest, **({"registry": known.name} if known else {})})
    parts.licences.append(known.licence if known else "unknown")


def _add_official(parts: _Parts, file: CheckpointFile) -> None:
    part, config = ("segmenter", SamConfig) if file.kind == "sam-vit" else ("detector", DinoConfig)
    try:
        found = config.from_weights(file.weights)
    except (KeyError, IndexError, ValueError) as error:
        raise BundleError(f"{file.path}: looks like {file.kind}, but {error} is missing or has an unknown shape. "
                          "The file is not a whole checkpoint.") from error
    values = asdict(found)
    _take(parts, part, file.path, {"kind": file.kind, **values})
    parts.weights[part] = file.weights


def _add_clip_folder(parts: _Parts, folder: Path) -> None:
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None:
        raise BundleError(f"{folder}: has no weights of open_clip (.safetensors or .bin) beside {CONFIG}.")
    file = read_checkpoint(Path(found))
    if file.kind != "open_clip":
        raise BundleError(f"{file.path}: is no open_clip checkpoint but {file.kind}.")
    _add_clip(parts, file, (folder / CONFIG).read_text(encoding="utf-8"), folder)
    _note_source(parts, file.path)


def _add_clip_file(parts: _Parts, file: CheckpointFile, model: str | None) -> None:
    import open_clip

    beside = file.path.parent / CONFIG
    if model is None and beside.is_file():
        _add_clip(parts, file, beside.read_text(encoding="utf-8"), file.path.parent)
        return
    config = open_clip.get_model_config(model) if model else None
    if config is None:
        raise BundleError(f"{file.path}: an open_clip checkpoint does not say its architecture. Give --clip-model "
                          f"{'NAME' if model is None else f'with a name that open_clip knows, not {model!r}'}, such as "
                          "ViT-B-32 or ViT-B-16-SigLIP, or put its open_clip_config.json beside it.")
    _add_clip(parts, file, json.dumps({"model_cfg": config}), file.path.parent)


def _add_clip(parts: _Parts, file: CheckpointFile, config: str, folder: Path) -> None:
    try:
        model = json.loads(config)["model_cfg"]
    except (ValueError, KeyError) as error:
        raise BundleError(f"{folder / CONFIG}: is not a configuration of open_clip ({error}).") from error
    has_text = any(not n.startswith("visual.") and n not in ("logit_scale", "logit_bias") for n in file.weights)
    _take(parts, "clip", file.path, {"kind": "open_clip", "text": has_text})
    parts.weights["clip"] = file.weights
    parts.texts[f"{CLIP_FOLDER}/{CONFIG}"] = config
    text = model.get("text_cfg", {}) if has_text else {}
    for wanted, files in (("hf_tokenizer_name", _TOKENIZER_FILES), ("hf_model_name", ("config.json",))):
        here = [folder / name for name in files if (folder / name).is_file()]
        if text.get(wanted) and not here:
            raise BundleError(f"{folder}: this CLIP needs the {wanted.split('_')[1]} files of {text[wanted]} "
                              f"({', '.join(files[:4])}). Put them beside the weights.")
        if text.get(wanted):
            parts.copies.update({f"{CLIP_FOLDER}/{path.name}": path for path in here})


def _add_trained(parts: _Parts, files: Sequence[CheckpointFile]) -> None:
    """Parts of our training; a file with the CLIP alone goes before the CLIP that other stages carry along."""
    clips = [f for f in files if f.content.keys() & {"model"}] or list(files)
    if len(clips) > 1 and clips != list(files):
        raise BundleError(f"{clips[1].path}: is a second CLIP; a bundle has one. Give one file for each part.")
    for file in files:
        for part in ("segmenter", "detector"):
            if part in file.content:
                _take(parts, part, file.path, dict(file.content["arch"][part]))
                parts.weights[part] = file.content[part]
    if files:
        chosen = clips[0]
        _take(parts, "clip", chosen.path, dict(chosen.content["arch"]["clip"]))
        parts.weights["clip"] = chosen.content.get("clip", chosen.content.get("model"))
        text = chosen.path.parent / "text"
        if not text.is_dir():
            raise BundleError(f"{chosen.path}: its text folder {text} is missing. It lies beside final.pt after a "
                              "training; copy both together.")
        parts.copies.update({f"{TEXT_FOLDER}/{p.name}": p for p in text.iterdir() if p.is_file()})


def _add_bert(parts: _Parts, folders: Sequence[Path]) -> None:
    needed = parts.architecture.get("detector", {}).get("kind") == "groundingdino-swin"
    if not needed:
        if folders:
            raise BundleError(f"{folders[0]}: a BERT folder is of use only together with a GroundingDINO checkpoint.")
        return
    if len(folders) != 1:
        raise BundleError("GroundingDINO needs one folder of its text encoder, bert-base-uncased, with config.json and "
                          f"vocab.txt or tokenizer.json; {len(folders)} were given. Get it by: claps models get "
                          "bert-base-uncased")
    folder = folders[0]
    files = [folder / n for n in ("config.json", *_TOKENIZER_FILES) if (folder / n).is_file()]
    if not any(p.name in ("vocab.txt", "tokenizer.json") for p in files):
        raise BundleError(f"{folder}: has no tokenizer (vocab.txt or tokenizer.json).")
    if any(f"{TEXT_FOLDER}/config.json" == name for name in parts.copies):
        raise BundleError("An official GroundingDINO cannot be put together with networks of this project's training: "
                          "each brings a text encoder. Make two bundles.")
    parts.copies.update({f"{TEXT_FOLDER}/{p.name}": p for p in files})


def _write(folder: Path, parts: _Parts, *, name: str, licence: str | None, dtype: str) -> None:
    import tomli_w
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    for relative, source in parts.copies.items():
        (folder / relative).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / relative)
    for relative, text in parts.texts.items():
        (folder / relative).parent.mkdir(exist_ok=True)
        (folder / relative).write_text(text, encoding="utf-8")
    for part, weights in parts.weights.items():
        official_clip = parts.architecture[part].get("kind") == "open_clip"
        path = folder / (f"{CLIP_FOLDER}/{WEIGHTS}" if official_clip else f"{part}.safetensors")
        path.parent.mkdir(exist_ok=True)
        # Tensors that layers share are written for each, because the format knows no sharing.
        save_file({n: t.detach().clone().contiguous() for n, t in weights.items()}, path)
        path.chmod(0o644)
    official = any(a.get("kind") for a in parts.architecture.values())
    boxes_only = parts.architecture.get("segmenter", {}).get("kind") == "sam-vit"
    known = sorted(set(parts.licences))
    content = {
        "name": name, "version": "imported", "licence": licence or " and ".join(known) or "unknown", "notice": NOTICE,
        "files": {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()},
        "architecture": {part: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
                         for part, values in parts.architecture.items()},
        "any_target": {"text_weight": 0.0 if boxes_only else 1.0, "box_threshold": 0.3},
        "prompts": {"signature": not official},
        "device": {"dtype": dtype},
        "training": {"note": "Imported.", "sources": parts.sources},
    }
    (folder / "bundle.toml").write_bytes(tomli_w.dumps(content).encode())
