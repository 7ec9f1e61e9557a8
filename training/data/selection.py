"""Which annotated images a run learns from, and what must be there before hours are spent on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError
from training.data.patients import patient_of
from training.data.records import HELD_OUT_PERCENT, Record, data_root, is_held_out, name_hash, segmentation_records


def training_records(config: dict[str, Any], *, held_out: bool = False) -> list[Record]:
    """List the images of ``train`` that a configuration names.

    Parameters
    ----------
    config : dict
        ``datasets``, the data sets to use (all if it is empty or missing), and ``exclude``, those to leave out: for
        leave-one-source-out. ``fold``, for cross-validation, holds out another part of ``train`` (`fold_of`), and
        ``learn_all = true`` none, for a last training with the settings that cross-validation has chosen.
    held_out : bool
        The held-out part instead of the rest.

    Raises
    ------
    InputError
        If a name or the fold is unknown, nothing is left, or a data set has no mask at all: all its targets would be
        learned as absent.
    """
    only, without = tuple(config.get("datasets", ())), tuple(config.get("exclude", ()))
    everything = segmentation_records("train")
    known = {r.dataset for r in everything}
    unknown = sorted({*only, *without} - known)
    if unknown:
        raise InputError(f"{data_root()}: the data set {', '.join(unknown)}, named in the configuration, has no image "
                         f"of split 'train'. There are: {', '.join(sorted(known))}.")
    if "fold" in config:
        kept = set(fold_of(everything, config["fold"]))
    else:
        kept = {r.image for r in everything if is_held_out(r.dataset, r.stem) and not config.get("learn_all")}
    records = [r for r in everything if (r.image in kept) == held_out
               and (not only or r.dataset in only) and r.dataset not in without]
    if not records:
        part = f"of the {HELD_OUT_PERCENT} % held out" if held_out else "to learn from"
        raise InputError(f"{data_root()}: no image {part} is left of the {len(everything)} of split 'train', with "
                         f"datasets = {list(only) or 'all'} and exclude = {list(without)} in the configuration.")
    check_masks(records)
    return records


def fold_of(records: Sequence[Record], fold: str) -> list[Path]:
    """Images of one fold: of each data set, in the order of a hash of the names, every n-th patient's.

    Parameters
    ----------
    records : sequence of Record
    fold : str
        ``"2/4"``: the second of four.

    Raises
    ------
    InputError
        If it is none.
    """
    number, _, count = fold.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) and int(count) > 1):
        raise InputError(f"fold = {fold!r} is none. The second of four is written \"2/4\".")
    patients: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: name_hash(r.dataset, r.stem)):
        patients[record.dataset][patient_of(record.dataset, record.stem)].append(record.image)
    return [image for mine in patients.values() for images in list(mine.values())[int(number) - 1::int(count)]
            for image in images]


def check_masks(records: Sequence[Record]) -> None:
    """Refuse data sets without any mask.

    Raises
    ------
    InputError
    """
    with_masks = {r.dataset for r in records if r.masks}
    for record in records:
        if record.dataset not in with_masks:
            target = next(iter(record.targets), "TARGET")
            expected = data_root() / "segmentation" / record.dataset / "masks" / target / f"{record.stem}.png"
            raise InputError(f"The data set {record.dataset} has no masks: {expected} and all others are missing. "
                             f"Put them there, or leave it out: exclude = [\"{record.dataset}\"] in the configuration.")
