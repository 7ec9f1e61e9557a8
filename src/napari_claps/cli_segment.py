"""``claps segment``: images in, boxes, masks and numbers out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_claps.errors import BundleError, ClapsError, InputError, OutputError, PromptError
from napari_claps.settings import Settings
from napari_claps.types import Modality
from napari_claps.vocabulary import MODALITIES, TARGETS, find_target, make_prompt, parse_modality, suggest_targets

if TYPE_CHECKING:
    from napari_claps.cli_progress import Terminal
    from napari_claps.jobs import Job, Options
    from napari_claps.models.manifest import BundleManifest

METHODS = ("claps",)

DESCRIPTION = """\
Segment retinal images. For each input NAME.ext, OUT/NAME/ gets
  masks.ome.tif      one channel per target, instance numbers, 0 = background
  boxes.json         scored boxes (COCO detection)
  measurements.csv   one row per number, with unit and source of the scale
  overlay.png        picture of the result (contact sheet for a volume)
  provenance.json    everything needed to repeat it
  doubts.csv         places of an OCT volume worth a look
The folder appears when it is complete. A second run skips what is complete. Inputs with the same NAME get
NAME.ext, and where that is not enough their folder before it (a_NAME.ext, b_NAME.ext).
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``segment`` command."""
    parser = subparsers.add_parser("segment", help="segment images and volumes", description=DESCRIPTION,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Settings()
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help="image file, or folder of image files")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder for the results")
    parser.add_argument("--modality", metavar="auto|ID",
                        help=f"one of {', '.join(MODALITIES)}; auto detects it per file (default: {default.modality})")
    parser.add_argument("--target", metavar="ID|TEXT", action="append", default=[], dest="targets",
                        help="what to look for: an id, a synonym or a few words; may be repeated "
                             "(default: all that the bundle knows in the modality)")
    parser.add_argument("--method", metavar="|".join(METHODS), help=f"default: {default.method}")
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help=f"trained models (default: {default.bundle})")
    parser.add_argument("--device", metavar="auto|cpu|cuda|mps", help=f"default: {default.device}")
    parser.add_argument("--score-threshold", metavar="0..1", type=float,
                        help="lowest score of an object that is kept (default: the bundle's own, per target)")
    parser.add_argument("--slices", metavar="START:STOP:STEP", help="only these slices of a volume, counted from 0")
    parser.add_argument("--no-linking", action="store_true",
                        help="number the objects of an OCT volume in each B-scan anew, instead of linking them")
    parser.add_argument("--settings", metavar="FILE.toml", type=Path,
                        help="file with these settings; options on the command line win")
    parser.add_argument("--overwrite", action="store_true", help="make results again that are there already")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment all inputs.

    Raises
    ------
    ClapsError
        If the usage is wrong; nothing has been written then.
    """
    from napari_claps.cli_messages import report_error
    from napari_claps.cli_progress import Terminal
    from napari_claps.jobs import plan
    from napari_claps.models.manifest import read_manifest

    options = options_from(arguments)
    manifest = read_manifest(options.settings.bundle)
    check_targets(options.targets, options.settings.modality, manifest)
    check_writable(arguments.output)
    terminal = Terminal(quiet=arguments.quiet, debug=arguments.debug)
    jobs, errors = plan(arguments.inputs, arguments.output)
    for error in errors:
        report_error(error, debug=arguments.debug)
    todo, n_skipped, n_failed = _sort_out(jobs, options, manifest, terminal)
    n_failed += len(errors)
    if todo:
        n_failed += sum(outcome.error is not None for outcome in terminal.segment(todo, options))
    n_done = len(jobs) + len(errors) - n_skipped - n_failed
    counts = ((n_done, "done"), (n_skipped, "skipped"), (n_failed, "failed"))
    terminal.say(", ".join(f"{n} {word}" for n, word in counts if n) + f". Results: {arguments.output}")
    return 1 if n_failed else 0


def options_from(arguments: argparse.Namespace) -> Options:
    """Put settings file and command line together, and check everything that needs no model."""
    from napari_claps.jobs import Options
    from napari_claps.slices import parse_slices

    settings, targets = Settings.from_toml(arguments.settings) if arguments.settings else (Settings(), [])
    names = ("modality", "method", "bundle", "device", "score_threshold")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.no_linking:
        given["link_slices"] = False
    settings = settings.updated(given, where="command line")
    if settings.modality != "auto":
        settings = settings.updated({"modality": str(parse_modality(settings.modality))})
    if settings.method not in METHODS:
        raise InputError(f"Unknown method {settings.method!r}. Known are: {', '.join(METHODS)}.")
    if arguments.slices is not None:
        parse_slices(arguments.slices)
    return Options(tuple(arguments.targets or targets), settings, arguments.slices, arguments.overwrite)


def check_targets(texts: Sequence[str], modality: str, manifest: BundleManifest) -> None:
    """Refuse targets that no file can have, before any work.

    With ``modality`` "auto" a target is fine when the bundle knows it in one of its modalities; whether it exists
    in a file is known when the modality of that file is.

    Raises
    ------
    PromptError, BundleError
    """
    modalities = list(manifest.modalities) if modality == "auto" else [Modality(modality)]
    if not any(manifest.targets(m) for m in modalities):
        raise BundleError(f"{manifest.name} {manifest.version} knows no target in the modality {modality}, only in "
                          f"{', '.join(manifest.modalities)}. Another bundle may: see claps models.")
    for text in texts:
        target = find_target(text)
        if target is None:
            _check_free_text(text, modalities[0], known=None if len(modalities) == 1 else list(TARGETS))
        elif modality != "auto":
            make_prompt(text, modalities[0])
        elif not any(manifest.pair(m, target.id) for m in modalities):
            known = dict.fromkeys(t for m in modalities for t in manifest.targets(m))
            raise PromptError(f"{manifest.name} {manifest.version} was not trained for {target.id}. "
                              f"It knows: {', '.join(known)}. Another bundle may: see claps models.")


def _check_free_text(text: str, modality: Modality, *, known: list[str] | None) -> None:
    try:
        make_prompt(text, modality)
    except PromptError as error:
        if known is None or "Unknown target" not in str(error):
            raise
        close = suggest_targets(text)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise PromptError(f"Unknown target {text!r}.{hint} Known are: {', '.join(known)}. "
                          "Free text needs at least two words.") from error


def check_writable(out: Path) -> None:
    """Refuse an output folder that cannot be made or written to, without making it.

    Raises
    ------
    OutputError
    """
    there = next(p for p in (out, *out.absolute().parents) if p.exists() or p.is_symlink())
    if not there.is_dir():
        raise OutputError(f"{out}: cannot be the output folder, because {there} is a file. Choose another with -o.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written, {there} does not allow it. Choose another folder with -o.")


def _sort_out(jobs: Sequence[Job], options: Options, manifest: BundleManifest,
              terminal: Terminal) -> tuple[list[Job], int, int]:
    """Return the jobs that are to be done, the number of complete ones and of those that cannot be done."""
    from napari_claps.cli_messages import report_error
    from napari_claps.jobs import is_complete

    todo: list[Job] = []
    n_skipped = n_failed = 0
    for job in jobs:
        try:
            if is_complete(job, options, manifest):
                terminal.say(f"{job.source}: already complete in {job.folder}, skipped")
                n_skipped += 1
            else:
                todo.append(job)
        except ClapsError as error:
            report_error(error, debug=terminal.debug)
            n_failed += 1
    return todo, n_skipped, n_failed
