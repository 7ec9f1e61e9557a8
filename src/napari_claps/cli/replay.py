"""``claps segment --replay``: what the terminal says of a run that is repeated."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_claps.device import choose_device
from napari_claps.errors import DeviceError, InputError
from napari_claps.io.fingerprint import sha256_of
from napari_claps.study.replay import Replay, read_replay

if TYPE_CHECKING:
    from napari_claps.cli.progress import Terminal
    from napari_claps.models.bundles.manifest import BundleManifest
    from napari_claps.study.jobs import Job

logger = logging.getLogger(__name__)

DECIDED = {"modality": "--modality", "targets": "--target", "method": "--method", "slices": "--slices",
           "score_threshold": "--score-threshold", "region": "--region", "uncertainty": "--uncertainty",
           "coverage": "--coverage", "no_linking": "--no-linking", "no_mirroring": "--no-mirroring",
           "settings": "--settings"}
"""Options that the file decides."""


def replay_from(arguments: argparse.Namespace) -> Replay:
    """Read the file of ``--replay``.

    Raises
    ------
    InputError
        If it cannot be read, or another option says what the file says.
    DeviceError
        If the device that was asked for is not there. That of then may be missing: another is used, with a warning.
    """
    given = {name: getattr(arguments, name) for name in DECIDED}
    twice = [DECIDED[name] for name, value in given.items() if value is not None and value is not False and value != []]
    if twice:
        raise InputError(f"--replay repeats what {arguments.replay} says, so {', '.join(twice)} cannot be given as "
                         "well.")
    replay = read_replay(arguments.replay)
    device = arguments.device or replay.request.settings.device
    try:
        device = choose_device(device)
    except DeviceError:
        if arguments.device:
            raise
        device = choose_device("auto")
    return replay.with_changes(bundle=arguments.bundle, device=device, check_prompts=arguments.check_prompts)


def warn_of_differences(replay: Replay, manifest: BundleManifest, jobs: Sequence[Job]) -> None:
    """Log a warning for everything that is not as it was."""
    found = replay.differences(manifest, replay.request.settings.device)
    for job in jobs:
        with contextlib.suppress(InputError):  # the job itself will say that the file cannot be read
            if (difference := replay.input_difference(job.source, sha256_of(job.source))) is not None:
                found.append(difference)
    for difference in found:
        logger.warning("replay: %s", difference)


def compare_masks(replay: Replay, jobs: Sequence[Job], terminal: Terminal) -> None:
    """Say of every result of the image of then whether its masks are the same bit for bit; `jobs` have been done."""
    for job in jobs:
        facts = json.loads((job.folder / "provenance.json").read_text(encoding="utf-8"))
        if replay.input_difference(job.source, facts["input"]["sha256"]) is not None:
            continue
        for difference in replay.decision_differences(facts):
            logger.warning("replay: %s: %s", job.source, difference)
        different = replay.mask_differences(facts)
        if different is None:
            logger.warning("replay: %s does not say what its masks were, so they were not compared", replay.path)
        elif different:
            logger.warning("replay: %s: other masks than then for %s", job.source, ", ".join(different))
        else:
            terminal.say(f"{job.source}: masks are the same as then, bit for bit")
