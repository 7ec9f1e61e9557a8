"""Checkpoints from a bundle, to train on from what was shipped.

``python -m training.stages.unpack_bundle --bundle claps-tiny --out runs/claps-tiny`` writes the folders ``clip``,
``segmenter`` and ``detector`` of its three parts, each as a run leaves it (``final.pt``, ``text``, ``config.json``),
and ``pairs.json`` with its thresholds. They serve wherever a stage or `training.stages.export` asks for a ``final.pt``;
exported again they give the same weights to the bit, because half precision is exact in single precision.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tomllib
from pathlib import Path

from napari_claps.errors import InputError
from napari_claps.files.atomic import atomic_path
from napari_claps.models.bundles.bundle import TEXT_FOLDER, WEIGHTS, load_bundle
from napari_claps.models.networks.clip import RetinalClip
from napari_claps.models.networks.detector import RetinalDetector
from napari_claps.models.networks.segmenter import RetinalSam
from training.run.checkpoint import save_atomically
from training.run.command import run_command


def unpack(name_or_folder: str | Path, out: Path) -> Path:
    """Write the parts of a bundle as checkpoints; returns `out`.

    Raises
    ------
    BundleError
        If the bundle is missing or damaged.
    InputError
        If its networks are not those that are trained here, or `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty. Choose another --out.")
    bundle = load_bundle(name_or_folder, device="cpu")
    manifest = bundle.manifest
    for part, kind in zip(WEIGHTS, (RetinalClip, RetinalDetector, RetinalSam), strict=True):
        if not isinstance(getattr(bundle, part), kind):
            raise InputError(f"{manifest.folder}: its {part} is none that is trained here, so training cannot go on "
                             "from it. claps-tiny has all parts.")
    arch = {part: dict(manifest.architecture[part]) for part in WEIGHTS}
    clip = bundle.clip.state_dict()
    states = {"clip": {}, "segmenter": {"segmenter": bundle.segmenter.head_state_dict()},
              "detector": {"detector": bundle.detector.head_state_dict()}}
    for part, state in states.items():
        folder = out / part
        shutil.copytree(manifest.folder / TEXT_FOLDER, folder / "text")
        (folder / "config.json").write_text(json.dumps(manifest.training.get(part, {}), indent=1), encoding="utf-8")
        save_atomically({"arch": {"clip": arch["clip"], part: arch[part]}, "clip": clip, **state}, folder / "final.pt")
    content = tomllib.loads((manifest.folder / "bundle.toml").read_text(encoding="utf-8"))
    with atomic_path(out / "pairs.json") as temporary:
        temporary.write_text(json.dumps({"pairs": content["pairs"]}, indent=1), encoding="utf-8")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny", help="name of an installed bundle, or its folder")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    print(unpack(a.bundle, a.out))


if __name__ == "__main__":
    sys.exit(run_command(main))
