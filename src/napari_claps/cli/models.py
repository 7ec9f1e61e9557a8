"""``claps models``: bundles and published checkpoints, listed, downloaded, imported, verified and removed."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_claps.errors import BundleError, ClapsError, OutputError

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import BundleManifest

_EPILOG = """\
example, with official weights:
  claps models get sam-vit-b groundingdino-swin-t bert-base-uncased clip-vit-b-32
  claps models import sam-vit-b groundingdino-swin-t bert-base-uncased clip-vit-b-32 --name official
  claps segment photo.png --modality cfp --target optic_disc --bundle official -o results
Only `get` uses the network.
"""

_FOLDER = "folder of your models (default: CLAPS_MODELS, else in your cache)"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``models`` command."""
    parser = subparsers.add_parser(
        "models", help="list, download, import, verify and remove trained models", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="List the bundles and what they can find; download, import, verify and remove models.")
    parser.add_argument("--folder", type=Path, help=_FOLDER)
    parser.set_defaults(run=run_list, bundle=None)
    actions = parser.add_subparsers(metavar="list|get|import|verify|remove")
    listing = _action(actions, "list", run_list, "list bundles, what they find, and what can be downloaded")
    listing.add_argument("bundle", metavar="NAME|FOLDER", nargs="?", help="only this bundle")
    get = _action(actions, "get", run_get, "download published checkpoints")
    get.add_argument("names", metavar="NAME", nargs="+", help="as in the list")
    importing = _action(actions, "import", run_import, "make a bundle of checkpoint files")
    importing.add_argument("sources", metavar="FILE|FOLDER|NAME", nargs="+",
                           help="SAM .pth; GroundingDINO .pth and a BERT folder; open_clip file or folder; final.pt of "
                                "a training; or the name of something downloaded by get")
    importing.add_argument("--name", required=True, help="name of the new bundle")
    importing.add_argument("--clip-model", metavar="MODEL",
                           help="architecture of an open_clip file, such as ViT-B-32, if nothing beside it says so")
    importing.add_argument("--licence", help="of the weights, if they are not known to the list")
    importing.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"),
                           help="type in which it computes; half precision is for GPUs (default: float32)")
    importing.add_argument("--overwrite", action="store_true", help="replace a bundle of yours of this name")
    verify = _action(actions, "verify", run_verify, "compare files with their checksums")
    verify.add_argument("names", metavar="NAME", nargs="*", help="bundles or downloads (default: all)")
    remove = _action(actions, "remove", run_remove, "delete a bundle or download of yours")
    remove.add_argument("names", metavar="NAME", nargs="+")


def _action(actions, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    # With a default of their own, they would undo what was given before the action.
    parser.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help=_FOLDER)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show where errors come from")
    parser.set_defaults(run=run)
    return parser


def run_list(arguments: argparse.Namespace) -> int:
    """Print a table per bundle, then the published checkpoints."""
    from napari_claps.models.bundles.manifest import bundle_folders, models_folder, read_manifest
    from napari_claps.models.bundles.registry import CHECKPOINTS

    if arguments.bundle:
        _print_bundle(read_manifest(arguments.bundle, arguments.folder))
        return 0
    failed = 0
    for folder in bundle_folders(arguments.folder):
        try:
            _print_bundle(read_manifest(folder))
        except BundleError as error:
            print(f"{folder.name}: {error}")
            failed = 1
    place = models_folder(arguments.folder)
    print(f"Published checkpoints (claps models get NAME; folder {place}):")
    for checkpoint in CHECKPOINTS.values():
        size = f"{max(checkpoint.size, 10**6) / 1e6:,.0f} MB" if checkpoint.size else "size unknown"
        state = "here" if checkpoint.is_here(place) else ""
        print(f"  {checkpoint.name:22} {checkpoint.part:13} {size:>12}  {checkpoint.licence:11} {state:5}"
              f"{checkpoint.title}")
    return failed


def _print_bundle(manifest: BundleManifest) -> None:
    print(f"{manifest.name} {manifest.version}  ({manifest.folder})")
    print(f"  {manifest.notice}")
    print(f"  licence: {manifest.licence}")
    kinds = [f"{part} {values.get('kind', 'claps')}" for part, values in manifest.architecture.items()]
    print(f"  networks: {', '.join(kinds)}; {manifest.dtype}")
    if manifest.common is not None:
        places = ", ".join(manifest.modalities)
        print(f"  finds any target, and free text, in {places}; accuracy unknown, nothing was measured; box threshold "
              f"{manifest.common.get('box_threshold', 0.3):.2f}")
        return
    print(f"  {'modality':9} {'target':30} {'Dice':>5}  {'threshold':>9}  images of validation")
    for pair in manifest.pairs:
        dice = "-" if pair.dice is None else f"{pair.dice:.2f}"
        print(f"  {pair.modality:9} {pair.target:30} {dice:>5}  {pair.threshold:9.2f}  {pair.n_images}")


def run_get(arguments: argparse.Namespace) -> int:
    """Download."""
    from tqdm import tqdm

    from napari_claps.models.bundles.download import get_checkpoint
    from napari_claps.models.bundles.registry import find_checkpoint

    for checkpoint in [find_checkpoint(name) for name in arguments.names]:
        print(f"{checkpoint.title}, licence {checkpoint.licence}, {checkpoint.page}")
        with tqdm(unit="B", unit_scale=True, unit_divisor=1000, disable=None) as bar:

            def show(name: str, done: int, total: int | None, bar: tqdm = bar) -> None:
                bar.desc, bar.total, bar.n = name, total, done
                bar.refresh()

            path = get_checkpoint(checkpoint, arguments.folder, progress=show)
        print(f"  {path}")
    print(f"Next: claps models import {' '.join(arguments.names)} --name NAME")
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    """Make a bundle."""
    from napari_claps.methods import abilities
    from napari_claps.models.bundles.bundle import load_bundle
    from napari_claps.models.bundles.import_bundle import import_bundle
    from napari_claps.models.bundles.manifest import models_folder
    from napari_claps.models.bundles.registry import CHECKPOINTS

    place = models_folder(arguments.folder)
    sources, clip_model = [], arguments.clip_model
    for source in arguments.sources:
        checkpoint = CHECKPOINTS.get(source)
        if checkpoint is None or Path(source).exists():
            sources.append(source)
            continue
        if not checkpoint.is_here(place):
            raise BundleError(f"{source} was not downloaded to {place}. Get it by: claps models get {source}")
        sources.append(checkpoint.path(place))
        clip_model = clip_model or checkpoint.clip_model or None
    manifest = import_bundle(sources, arguments.name, folder=place, clip_model=clip_model, licence=arguments.licence,
                             dtype=arguments.dtype, overwrite=arguments.overwrite)
    _print_bundle(manifest)
    bundle = load_bundle(manifest.folder, device="cpu", verify=False)
    for name, reason in abilities(bundle).items():
        print(f"  {name:20} {f'does not work: {reason}' if reason else 'works'}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Compare checksums; 1 if something is wrong."""
    from napari_claps.models.bundles.download import check_file
    from napari_claps.models.bundles.manifest import bundle_folders, models_folder, read_manifest
    from napari_claps.models.bundles.registry import CHECKPOINTS

    place = models_folder(arguments.folder)
    here = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.is_here(place)]
    names = arguments.names or [str(f) for f in bundle_folders(arguments.folder)] + here
    failed = 0
    for name in names:
        try:
            if name in here:
                checkpoint = CHECKPOINTS[name]
                pairs = zip(checkpoint.files, checkpoint.paths(place), strict=True)
                compared = "; ".join(f"{path.name}: {check_file(file, path)}" for file, path in pairs)
                print(f"{name}: good ({compared})")
            else:
                manifest = read_manifest(name, arguments.folder)
                manifest.verify()
                print(f"{manifest.name}: good (sha256 of {len(manifest.files)} files)")
        except ClapsError as error:
            print(f"{Path(name).name}: {error}")
            failed = 1
    return failed


def run_remove(arguments: argparse.Namespace) -> int:
    """Delete from the user's folder, and nowhere else."""
    from napari_claps.models.bundles.manifest import PACKAGED, models_folder
    from napari_claps.models.bundles.registry import CHECKPOINTS

    place = models_folder(arguments.folder)
    for path in _removable(arguments.names, place, PACKAGED, CHECKPOINTS):
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed ({error.strerror or error}).") from error
        print(f"removed {path}")
    return 0


def _removable(names: Sequence[str], place: Path, packaged: Path, checkpoints) -> list[Path]:
    """Paths of the user's bundles and downloads of these names, all or an error before the first is deleted."""
    found = []
    for name in names:
        bundle = place / name
        if Path(name).name == name != ".." and (bundle / "bundle.toml").is_file():
            found.append(bundle)
            continue
        paths = [checkpoints[name].path(place)] if name in checkpoints else []
        here = [p for path in paths for p in (path, path.with_name(f"{path.name}.part")) if p.exists()]
        if here:
            found += here
        elif (packaged / name / "bundle.toml").is_file() and Path(name).name == name:
            raise BundleError(f"{name} came with the package and is not removed: only bundles in {place} are.")
        else:
            raise BundleError(f"There is nothing called {name!r} in {place}. See: claps models list")
    return found
