"""``claps segment``: images in, boxes, masks and numbers out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_claps.cli.checks import check_targets, check_writable
from napari_claps.errors import ClapsError
from napari_claps.methods import METHODS
from napari_claps.settings import Settings
from napari_claps.words.vocabulary import MODALITIES, parse_modality

if TYPE_CHECKING:
    from napari_claps.cli.progress import Terminal
    from napari_claps.models.bundles.manifest import BundleManifest
    from napari_claps.study.jobs import Job
    from napari_claps.study.request import Request

DESCRIPTION = """\
Segment retinal images. For each input NAME.ext, OUT/NAME/ gets
  masks.ome.tif      one channel per target, instance numbers, 0 = background
  boxes.json         scored boxes (COCO detection)
  measurements.csv   one row per number, with unit and source of the scale
  overlay.png        picture of the result (contact sheet for a volume)
  provenance.json    everything needed to repeat it
  doubts.csv         places of an OCT volume worth a look
  anatomy.csv        what cannot be in an eye, where targets were asked for that say so
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
    parser.add_argument("--region", metavar="Y0,X0,Y1,X1",
                        help="only this part of every slice, in pixels, the end not included")
    parser.add_argument("--uncertainty", action="store_true",
                        help="also write uncertainty.ome.tif, the entropy per pixel (in bits) of an ensemble; takes "
                             "several times as long")
    parser.add_argument("--coverage", metavar="0.5..1", type=float,
                        help="also write inner.ome.tif (pixels that are sure) and outer.ome.tif (pixels that cannot be "
                             "excluded) for this coverage, such as 0.8")
    parser.add_argument("--check-prompts", action="store_true",
                        help="also run the slice with most findings with other texts, and warn if its masks do not "
                             "depend on the text (prompt-check.png, prompt-check.csv)")
    parser.add_argument("--replay", metavar="provenance.json", type=Path,
                        help="do again what this file of a result says, and say what is not as it was; goes with -o, "
                             "--bundle, --device, --check-prompts, --overwrite and --quiet alone")
    parser.add_argument("--no-linking", action="store_true",
                        help="number the objects of an OCT volume in each B-scan anew, instead of linking them")
    parser.add_argument("--no-mirroring", action="store_true",
                        help="look at each image once instead of also mirrored, which is what the bundle asks for in "
                             "some modalities: about four times as fast, masks a little worse")
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
    from napari_claps.cli.messages import report_error
    from napari_claps.cli.progress import Terminal
    from napari_claps.cli.replay import compare_masks, replay_from, warn_of_differences
    from napari_claps.models.bundles.manifest import read_manifest
    from napari_claps.study.jobs import Job, plan

    replay = replay_from(arguments) if arguments.replay else None
    request = replay.request if replay else request_from(arguments)
    settings = request.settings
    manifest = replay.read_manifest() if replay else read_manifest(settings.bundle, settings.models_folder)
    check_targets(request.targets, settings.modality, manifest)
    check_writable(arguments.output)
    terminal = Terminal(quiet=arguments.quiet, debug=arguments.debug)
    jobs, errors = plan(arguments.inputs, arguments.output)
    for error in errors:
        report_error(error, debug=arguments.debug)
    if replay:
        warn_of_differences(replay, manifest, jobs)
    todo, complete = _sort_out(jobs, request, manifest, terminal, overwrite=arguments.overwrite)
    outcomes = terminal.segment(todo, request) if todo else ()
    done = [Job(outcome.source, outcome.folder) for outcome in outcomes if outcome.folder is not None]
    if replay:
        compare_masks(replay, [*complete, *done], terminal)
    n_failed = len(jobs) + len(errors) - len(complete) - len(done)
    counts = ((len(done), "done"), (len(complete), "skipped"), (n_failed, "failed"))
    where = f". Results: {arguments.output}" if done or complete else ""
    terminal.say(", ".join(f"{n} {word}" for n, word in counts if n) + where)
    return 1 if n_failed else 0


def request_from(arguments: argparse.Namespace) -> Request:
    """Put settings file and command line together, and check everything that needs no model."""
    from napari_claps.inference.slices import parse_region, parse_slices
    from napari_claps.study.request import Request

    settings, targets = Settings.from_toml(arguments.settings) if arguments.settings else (Settings(), [])
    names = ("modality", "method", "bundle", "device", "score_threshold", "coverage")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.no_linking:
        given["link_slices"] = False
    if arguments.no_mirroring:
        given["mirrored"] = False
    if arguments.uncertainty:
        given["uncertainty"] = True
    settings = settings.updated(given, where="command line")
    if settings.modality != "auto":
        settings = settings.updated({"modality": str(parse_modality(settings.modality))})
    if arguments.slices is not None:
        parse_slices(arguments.slices)
    region = None if arguments.region is None else parse_region(arguments.region)
    return Request(tuple(arguments.targets or targets), settings, arguments.slices, region=region,
                   check_prompts=arguments.check_prompts)


def _sort_out(jobs: Sequence[Job], request: Request, manifest: BundleManifest,
              terminal: Terminal, *, overwrite: bool) -> tuple[list[Job], list[Job]]:
    """Return the jobs that are to be done, and those that are complete; say why of those that cannot be done."""
    from napari_claps.cli.messages import report_error
    from napari_claps.study.jobs import is_complete

    todo: list[Job] = []
    complete: list[Job] = []
    for job in jobs:
        try:
            if is_complete(job, request, manifest, overwrite=overwrite):
                terminal.say(f"{job.source}: already complete in {job.folder}, skipped")
                complete.append(job)
            else:
                todo.append(job)
        except ClapsError as error:
            report_error(error, debug=terminal.debug)
    return todo, complete
