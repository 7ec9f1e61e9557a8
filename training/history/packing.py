"""Code, data and a checkpoint in one folder of a given size, to be trained elsewhere; weights in parts."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.inference.scales import scaled_shape, working_side
from napari_claps.words.vocabulary import TARGETS
from training.data.records import Record, data_root, read_mask, read_rgb
from training.run.checkpoint import load_checkpoint, save_atomically

MIB = 1 << 20
QUALITIES = (92, 86, 80, 72)
"""JPEG qualities, tried in this order until the pack is small enough."""
SEGMENTATION = ("dataset", "split", "modality", "image", "width", "height", "targets")


def packed_side(record: Record, shape: tuple[int, int]) -> int:
    """Long side at which all working scales of the image can be made as from the original, never a larger one."""
    return min(max(shape), max(working_side(record.modality, TARGETS[t].kind, shape) for t in record.targets))


def write_image(path: Path, image: np.ndarray, quality: int) -> None:
    """Write (y, x, 3) uint8 as JPEG without colour sub-sampling, a grey one in one channel."""
    grey = (image[..., :1] == image).all()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if grey else image).save(path, quality=quality, subsampling=0, optimize=True)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Scale the long side down to `side`, as the pipeline does; an image that is small enough stays as it is."""
    if max(image.shape[:2]) <= side:
        return image
    height, width = scaled_shape(image.shape[:2], side)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def pack_record(record: Record, split: str, out: Path, quality: int) -> list[Any]:
    """Write a reduced image with its masks; returns its row of ``segmentation.csv``."""
    image = read_rgb(record.image)
    side = packed_side(record, image.shape[:2])
    small = shrink(image, side)
    name = Path("segmentation") / record.dataset / "images" / f"{record.stem}.jpg"
    write_image(out / name, small, quality)
    masks = dict(record.masks) | ({"fov": record.field_of_view} if record.field_of_view else {})
    for target, path in masks.items():
        mask = shrink(read_mask(path, image.shape[:2]).astype(np.uint8) * 255, side) > 127
        file = out / "segmentation" / record.dataset / "masks" / target / f"{record.stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(file, optimize=True)
    targets = [*record.targets, *(["fov"] if record.field_of_view else [])]
    return [record.dataset, split, str(record.modality), name.as_posix(), small.shape[1], small.shape[0],
            " ".join(targets)]


def pack_pretraining(out: Path, side: int, quality: int) -> None:
    """Write the images of ``pretraining.csv`` with a long side of `side`; with 0 the list is empty."""
    names, rows = ["dataset", "modality", "image", "labels"], []
    if side:
        with (data_root() / "pretraining.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    for row in tqdm(rows, desc="pre-training images", mininterval=10):
        name = Path(row["image"]).with_suffix(".jpg")
        if not (out / name).exists():  # an image with masks is there already, at its working scale
            write_image(out / name, shrink(read_rgb(data_root() / row["image"]), side), quality)
        row["image"] = name.as_posix()
    with (out / "pretraining.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def pack_data(records: Sequence[tuple[str, Record]], out: Path, *, limit: int, pretraining_side: int = 0) -> int:
    """Write the images at their working scales, in the form of the data folder.

    Parameters
    ----------
    records : sequence of (split, Record)
    limit : int
        Bytes that the folder may have.
    pretraining_side : int
        Long side of the pre-training images; 0 leaves them out.

    Returns
    -------
    int
        JPEG quality used: the best of `QUALITIES` that fits.

    Raises
    ------
    InputError
        If none does.
    """
    for quality in QUALITIES:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        rows = [pack_record(record, split, out, quality)
                for split, record in tqdm(records, desc=f"images, quality {quality}", mininterval=10)]
        with (out / "segmentation.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([SEGMENTATION, *rows])
        pack_pretraining(out, pretraining_side, quality)
        if folder_size(out) <= limit:
            return quality
    raise InputError(f"{out}: the images take {folder_size(out) / MIB:.1f} MiB at the lowest quality, and "
                     f"{limit / MIB:.1f} MiB are left for them. Pack fewer data sets (--dataset) or raise --limit-mib.")


def pack_code(out: Path) -> None:
    """Copy the package, without weights, and the training."""
    root = Path(__file__).parents[2]
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc", "*.part", "*.safetensors")
    for folder in ("src/napari_claps", "training"):
        shutil.copytree(root / folder, out / folder, ignore=unwanted, dirs_exist_ok=True)


def pack_checkpoint(checkpoint: Path, out: Path) -> None:
    """Copy a checkpoint in half precision, with its text folder."""
    out.mkdir(parents=True, exist_ok=True)
    save_atomically(halved(load_checkpoint(checkpoint)), out / "final.pt")
    shutil.copytree(checkpoint.parent / "text", out / "text", dirs_exist_ok=True)


def halved(state: Any) -> Any:
    """A checkpoint with float16 instead of float32 tensors, which every stage reads alike.

    Raises
    ------
    InputError
        If a value is too large for float16.
    """
    if isinstance(state, torch.Tensor):
        if state.dtype != torch.float32:
            return state
        half = state.half()
        if not torch.equal(half.isfinite(), state.isfinite()):
            raise InputError("A weight is too large for half precision (above 65504). Keep the checkpoint as it is.")
        return half
    if isinstance(state, dict):
        return {key: halved(value) for key, value in state.items()}
    return [halved(value) for value in state] if isinstance(state, list) else state


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def split_file(path: Path, out: Path, *, part_bytes: int) -> list[Path]:
    """Cut a file into parts ``NAME.000``, ``NAME.001``, ..., with hashes in ``NAME.json``; returns all of them."""
    content = path.read_bytes()
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, start in enumerate(range(0, len(content), part_bytes)):
        parts.append(out / f"{path.name}.{number:03d}")
        parts[-1].write_bytes(content[start:start + part_bytes])
    about = {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
             "parts": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in parts}}
    listing = out / f"{path.name}.json"
    listing.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return [*parts, listing]


def join_file(listing: Path, out: Path) -> Path:
    """Put the parts beside ``NAME.json`` together in the folder `out`.

    Raises
    ------
    InputError
        If a part is missing or damaged.
    """
    try:
        about = json.loads(listing.read_text(encoding="utf-8"))
        name, parts, digest = Path(about["name"]).name, about["parts"], about["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{listing}: is no list of parts as split_file writes it ({error}).") from error
    content = bytearray()
    for part, expected in parts.items():
        path = listing.parent / Path(part).name
        if not path.is_file():
            raise InputError(f"{path}: this part of {name} is missing. Fetch it again.")
        piece = path.read_bytes()
        if hashlib.sha256(piece).hexdigest() != expected:
            raise InputError(f"{path}: this part of {name} is damaged ({len(piece)} bytes). Fetch it again.")
        content += piece
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"{listing}: the parts together are not {name}.")
    with atomic_path(out / name) as temporary:
        temporary.write_bytes(content)
    return out / name
