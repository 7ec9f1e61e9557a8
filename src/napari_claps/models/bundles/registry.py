"""Published checkpoints that can be had by name: address, size, licence, and how each is verified.

Facts about the files, and where they come from:

* SAM: addresses and licence from the README of facebookresearch/segment-anything. The six hexadecimal digits in a
  file's name are the beginning of its MD5. Sizes and sha256 were published by independent users and agree.
* GroundingDINO: addresses from the releases of IDEA-Research/GroundingDINO; sizes and sha256 as above.
* open_clip models and BERT: addresses in the Hugging Face hub, with the revision where it is known. Sizes and sha256
  were published by independent users of the files.

What nobody has told is None: such a file is only checked for being complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_claps.errors import BundleError


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Parameters
    ----------
    url : str
    name : str
        Under which it is stored.
    size : int or None
        In bytes, if known.
    sha256 : str or None
        If known.
    md5_prefix : str
        Beginning of its MD5, as published; empty if none is.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    md5_prefix: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint of one or more files.

    Parameters
    ----------
    name : str
        On the command line.
    title : str
    part : str
        What it is in a bundle: "segmenter", "detector", "clip" or "text encoder".
    licence : str
    page : str
        Where it is described.
    files : tuple of RemoteFile
        Several files make a folder.
    clip_model : str
        Architecture in open_clip, for weights that do not say it.
    """

    name: str
    title: str
    part: str
    licence: str
    page: str
    files: tuple[RemoteFile, ...]
    clip_model: str = ""

    @property
    def size(self) -> int | None:
        """Bytes of all files, None if one is unknown."""
        sizes = [f.size for f in self.files]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    def path(self, folder: Path) -> Path:
        """Where it lies after the download, in the user's folder: a file, or a folder of several."""
        place = folder / "downloads"
        return place / self.files[0].name if len(self.files) == 1 else place / self.name

    def paths(self, folder: Path) -> list[Path]:
        """Where each of its files lies."""
        path = self.path(folder)
        return [path] if len(self.files) == 1 else [path / f.name for f in self.files]

    def is_here(self, folder: Path) -> bool:
        """Whether all files were downloaded."""
        return all(p.is_file() for p in self.paths(folder))


_SAM = "https://github.com/facebookresearch/segment-anything"
_SAM_FILES = "https://dl.fbaipublicfiles.com/segment_anything"
_DINO = "https://github.com/IDEA-Research/GroundingDINO"
_HUB = "https://huggingface.co"
_LAION_32 = f"{_HUB}/laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_LAION_16 = f"{_HUB}/laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
_LAION_L = f"{_HUB}/laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
_BIOMED = f"{_HUB}/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_BIOMED_FILES = f"{_BIOMED}/resolve/9f341de24bfb00180f1b847274256e9b65a3a32e"
_PUBMED_BERT = f"{_HUB}/microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
_BERT = f"{_HUB}/google-bert/bert-base-uncased"
_BERT_FILES = f"{_BERT}/resolve/86b5e0934494bd15c9632b12f734a8a67f723594"

CHECKPOINTS: dict[str, Checkpoint] = {c.name: c for c in (
    Checkpoint("sam-vit-b", "SAM ViT-B", "segmenter", "Apache-2.0", _SAM, (RemoteFile(
        f"{_SAM_FILES}/sam_vit_b_01ec64.pth", "sam_vit_b_01ec64.pth", 375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", "01ec64"),)),
    Checkpoint("sam-vit-l", "SAM ViT-L", "segmenter", "Apache-2.0", _SAM, (RemoteFile(
        f"{_SAM_FILES}/sam_vit_l_0b3195.pth", "sam_vit_l_0b3195.pth", 1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", "0b3195"),)),
    Checkpoint("sam-vit-h", "SAM ViT-H", "segmenter", "Apache-2.0", _SAM, (RemoteFile(
        f"{_SAM_FILES}/sam_vit_h_4b8939.pth", "sam_vit_h_4b8939.pth", 2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", "4b8939"),)),
    Checkpoint("groundingdino-swin-t", "GroundingDINO Swin-T (OGC)", "detector", "Apache-2.0", _DINO, (RemoteFile(
        f"{_DINO}/releases/download/v0.1.0-alpha/groundingdino_swint_ogc.pth", "groundingdino_swint_ogc.pth",
        693_997_677, "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799"),)),
    Checkpoint("groundingdino-swin-b", "GroundingDINO Swin-B (CogCoor)", "detector", "Apache-2.0", _DINO, (RemoteFile(
        f"{_DINO}/releases/download/v0.1.0-alpha2/groundingdino_swinb_cogcoor.pth", "groundingdino_swinb_cogcoor.pth",
        938_057_991, "46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7"),)),
    Checkpoint("bert-base-uncased", "BERT base, tokenizer and configuration", "text encoder", "Apache-2.0", _BERT, (
        RemoteFile(f"{_BERT_FILES}/config.json", "config.json", 570,
                   "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20"),
        RemoteFile(f"{_BERT_FILES}/vocab.txt", "vocab.txt", 231_508,
                   "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"))),
    Checkpoint("clip-vit-b-32", "CLIP ViT-B/32, LAION-2B", "clip", "MIT", _LAION_32, (RemoteFile(
        f"{_LAION_32}/resolve/1a25a446712ba5ee05982a381eed697ef9b435cf/open_clip_model.safetensors",
        "clip_vit_b_32_laion2b.safetensors", 605_143_316,
        "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6"),), "ViT-B-32"),
    Checkpoint("clip-vit-b-16", "CLIP ViT-B/16, LAION-2B", "clip", "MIT", _LAION_16, (RemoteFile(
        f"{_LAION_16}/resolve/7288da5a0d6f0b51c4a2b27c624837a9236d0112/open_clip_model.safetensors",
        "clip_vit_b_16_laion2b.safetensors"),), "ViT-B-16"),
    Checkpoint("clip-vit-l-14", "CLIP ViT-L/14, LAION-2B", "clip", "MIT", _LAION_L, (RemoteFile(
        f"{_LAION_L}/resolve/main/open_clip_pytorch_model.bin", "clip_vit_l_14_laion2b.bin", 1_710_631_365,
        "5ddb47339f44e4fd9cace3d3960d38af1b51a25857440cfae90afc44706d7e2b"),), "ViT-L-14"),
    Checkpoint("biomedclip", "BiomedCLIP, ViT-B/16 and PubMedBERT", "clip", "MIT", _BIOMED, (
        RemoteFile(f"{_BIOMED_FILES}/open_clip_pytorch_model.bin", "open_clip_pytorch_model.bin"),
        RemoteFile(f"{_BIOMED_FILES}/open_clip_config.json", "open_clip_config.json"),
        RemoteFile(f"{_BIOMED_FILES}/tokenizer.json", "tokenizer.json"),
        RemoteFile(f"{_BIOMED_FILES}/tokenizer_config.json", "tokenizer_config.json"),
        RemoteFile(f"{_PUBMED_BERT}/resolve/d673b8835373c6fa116d6d8006b33d48734e305d/config.json", "config.json"))),
)}
"""By name."""


def find_checkpoint(name: str) -> Checkpoint:
    """Return the checkpoint of this name.

    Raises
    ------
    BundleError
        If there is none.
    """
    if name not in CHECKPOINTS:
        raise BundleError(f"There is no published checkpoint {name!r} in the list. Known are: "
                          f"{', '.join(CHECKPOINTS)}. Import your own files with claps models import.")
    return CHECKPOINTS[name]


def known_file(sha256: str) -> Checkpoint | None:
    """The checkpoint that a file with this sha256 belongs to, or None."""
    return next((c for c in CHECKPOINTS.values() for f in c.files if f.sha256 == sha256), None)
