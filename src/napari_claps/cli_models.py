"""``claps models``: the trained bundles, and what each can find how well."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``models`` command."""
    parser = subparsers.add_parser("models", help="list trained bundles and what they can find",
                                   description="List the trained bundles, what they can find, and how well.")
    parser.add_argument("bundle", metavar="NAME|FOLDER", nargs="?", help="only this one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table per bundle."""
    from napari_claps.models.manifest import available_bundles, read_manifest

    bundles = [read_manifest(arguments.bundle)] if arguments.bundle else available_bundles()
    if not bundles:
        print("No bundle is installed.")
    for manifest in bundles:
        print(f"{manifest.name} {manifest.version}  ({manifest.folder})")
        print(f"  {manifest.notice}")
        print(f"  licence: {manifest.licence}")
        print(f"  {'modality':9} {'target':30} {'Dice':>5}  {'threshold':>9}  images of validation")
        for pair in manifest.pairs:
            dice = "-" if pair.dice is None else f"{pair.dice:.2f}"
            print(f"  {pair.modality:9} {pair.target:30} {dice:>5}  {pair.threshold:9.2f}  {pair.n_images}")
    return 0
