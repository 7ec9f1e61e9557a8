"""``claps sample``: write the samples that come with the installation."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``sample`` command."""
    parser = subparsers.add_parser("sample", help="write sample images, one of them synthetic with its truth",
                                   description="Write sample images, all of them unless named.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="which samples (default: all)")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, default=Path("claps-samples"),
                        help="folder to write to (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="list the samples and write nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the samples, or list them."""
    from napari_claps.errors import InputError
    from napari_claps.synthetic.samples import SAMPLES, write_sample

    unknown = [name for name in arguments.names if name not in SAMPLES]
    if unknown:
        raise InputError(f"There is no sample {unknown[0]!r}. Known are: {', '.join(SAMPLES)}.")
    for name in arguments.names or SAMPLES:
        if arguments.list:
            print(f"{name:20} {SAMPLES[name].description}")
        else:
            for path in write_sample(name, arguments.output):
                print(path)
    return 0
