"""The content of a ``provenance.json`` as it must be when it is read back; what is written is in `provenance`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from napari_claps.errors import InputError
from napari_claps.files.schema import Number, Part, Switch, Whole, checked, read_json

logger = logging.getLogger(__name__)


class InputRecord(Part):
    """The image; pixels that came from no file have no hash."""

    name: str | None = None
    sha256: str | None = None
    shape: tuple[Whole, ...] | None = None
    laterality: str | None = None


class SpacingRecord(Part):
    """Millimetres per axis, and who said so."""

    mm: tuple[Number, ...] | None = None
    axes: str | None = None
    source: str | None = None


class Record(Part):
    """What a saved result may say of itself; files of other versions, and edited ones, may say less."""

    program: str | None = None
    input: InputRecord = InputRecord()
    spacing: SpacingRecord = SpacingRecord()
    slices: tuple[Whole, ...] | None = None
    linked: Switch | None = None
    versions: dict[str, str | None] | None = None
    machine: dict[str, Any] | None = None
    method_settings: dict[str, Any] | None = None
    masks_sha256: dict[str, str] | None = None


class NamedInput(InputRecord):
    """An image that can be told from others."""

    name: str
    sha256: str | None


class ModalityRecord(Part):
    """The modality that was decided."""

    id: str


class BundleRecord(Part):
    """The bundle that was used."""

    name: str
    version: str
    sha256: str


class AskedRecord(Part):
    """What was asked for, besides the settings, which have a schema of their own."""

    targets: Literal["all"] | tuple[str, ...]
    slices: str | None = None
    region: tuple[Whole, Whole, Whole, Whole] | None = None
    check_prompts: Switch = False


class ReplayRecord(Record):
    """A record that says enough to do it again."""

    program: Annotated[str, Field(pattern="^napari-claps")]
    input: NamedInput
    modality: ModalityRecord
    bundle: BundleRecord
    device: str
    request: AskedRecord
    batch_size: Whole = 1


def read_record(path: Path) -> dict[str, Any]:
    """Read a ``provenance.json``; what of it is not as it must be is left out, see `usable_facts`.

    Raises
    ------
    InputError
        If it cannot be read, or is none.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no provenance of napari-claps.")
    return usable_facts(found, where=str(path))


def usable_facts(facts: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the facts without those of the wrong type: masks are not lost because somebody edited their record.

    What is left out is said in the log.
    """
    found = dict(facts)
    for name in facts.keys() & Record.model_fields.keys():
        try:
            checked(Record, {name: facts[name]}, where=where)
        except InputError as error:
            logger.warning("%s It is left out.", error)
            del found[name]
    return found


def replay_record(facts: object, *, where: str) -> ReplayRecord:
    """Return what is needed to repeat a run.

    Raises
    ------
    InputError
        If it is missing or of the wrong type.
    """
    return checked(ReplayRecord, facts, where=f"{where}: is no provenance.json of napari-claps, or a damaged one")
