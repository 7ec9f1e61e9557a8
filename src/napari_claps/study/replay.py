"""Do again what a ``provenance.json`` says, and say what is not as it was.

On the same machine, with the same versions, the masks come out the same bit for bit. Other versions, another processor
or number of threads change the last bits of sums, and with them, rarely, a pixel at the edge of a mask; another bundle
or another input changes everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_claps.errors import BundleError
from napari_claps.files.schema import read_json
from napari_claps.results.provenance import library_versions, machine
from napari_claps.results.record import replay_record
from napari_claps.session import is_session, read_session
from napari_claps.settings import Settings
from napari_claps.study.request import Request

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import BundleManifest


@dataclass(frozen=True, eq=False)
class Replay:
    """A run that is to be repeated.

    Parameters
    ----------
    path : Path
        The file.
    facts : mapping
        Its content.
    request : Request
        What was asked for then.
    """

    path: Path
    facts: Mapping[str, Any]
    request: Request

    def with_changes(self, *, bundle: str | None = None, device: str | None = None,
                     check_prompts: bool = False) -> Replay:
        """Return a copy that looks for the bundle elsewhere, uses another device, or does more."""
        given = {name: value for name, value in (("bundle", bundle), ("device", device)) if value is not None}
        request = dataclasses.replace(self.request, settings=self.request.settings.updated(given),
                                      check_prompts=self.request.check_prompts or check_prompts)
        return dataclasses.replace(self, request=request)

    def read_manifest(self) -> BundleManifest:
        """Read the bundle.

        Raises
        ------
        BundleError
            If it is not there: without it there is nothing to repeat.
        """
        from napari_claps.models.bundles.manifest import read_manifest

        try:
            return read_manifest(self.request.settings.bundle, self.request.settings.models_folder)
        except BundleError as error:
            then = self.facts["bundle"]
            raise BundleError(f"{self.path}: was made with the bundle {then['name']} {then['version']} (sha256 "
                              f"{then['sha256'][:12]}...). {error} Give its folder with --bundle.") from error

    def differences(self, manifest: BundleManifest, device: str) -> list[str]:
        """What is not as it was, one phrase each; empty when the masks must come out the same.

        Parameters
        ----------
        manifest : BundleManifest
            Of the bundle that will be used.
        device : str
            That will be used.
        """
        found = []
        then, now = self.facts["bundle"], {"version": manifest.version, "sha256": manifest.sha256}
        if then["sha256"] != now["sha256"]:
            found.append(f"the bundle was {then['name']} {then['version']} (sha256 {then['sha256'][:12]}...), is "
                         f"{manifest.name} {manifest.version} (sha256 {manifest.sha256[:12]}...): expect other masks")
        if self.facts.get("device") != device:
            found.append(f"the device was {self.facts.get('device', 'not written down')}, is {device}")
        found += _changed(self.facts.get("versions") or {}, library_versions())
        found += _changed(self.facts.get("machine") or {}, machine())
        return found

    def input_difference(self, source: Path, sha256: str) -> str | None:
        """Say it when this is not the image of then."""
        then = self.facts["input"]
        if then["sha256"] is None:  # made in napari, of pixels that came from no file: the masks will tell
            return None
        if sha256 == then["sha256"]:
            return None
        return (f"{source} is not the image of then ({then['name']}, sha256 {then['sha256'][:12]}..., here "
                f"{sha256[:12]}...)")

    def decision_differences(self, facts: Mapping[str, Any]) -> list[str]:
        """What was otherwise before any mask was made: modality, spacing, or the settings of the method.

        Parameters
        ----------
        facts : mapping
            Provenance of the new result.
        """
        def decided(of: Mapping[str, Any]) -> dict[str, Any]:
            spacing = of.get("spacing") or {}  # in napari that of the layer, which somebody may have changed
            return {"modality": of["modality"]["id"], "settings of the method": of.get("method_settings") or {},
                    "spacing in mm": spacing.get("mm"), "spacing within a slice in mm": spacing.get("plane_mm")}

        then, now = decided(self.facts), decided(facts)
        return _changed(then, now)

    def mask_differences(self, facts: Mapping[str, Any]) -> list[str] | None:
        """Labels whose masks are not the same bit for bit; None when the file of then is silent about it.

        Parameters
        ----------
        facts : mapping
            Provenance of the new result.
        """
        then, now = self.facts.get("masks_sha256"), facts.get("masks_sha256")
        if not then or not now:
            return None
        return [label for label in {**then, **now} if then.get(label) != now.get(label)]


def read_replay(path: str | Path) -> Replay:
    """Read a ``provenance.json``, or the provenance in a session (``.claps.zip``).

    Raises
    ------
    InputError
        If it cannot be read, or is not one of this program.
    """
    path = Path(path)
    facts = read_session(path).provenance if is_session(path) else read_json(path, what="a provenance.json")
    return Replay(path, facts, request_of(facts, where=str(path)))


def request_of(facts: Mapping[str, Any], *, where: str) -> Request:
    """Return the request whose result has this provenance.

    Parameters
    ----------
    facts : mapping
        Content of a ``provenance.json``.
    where : str
        What messages name.

    Raises
    ------
    InputError
        If it is not one of this program, or a damaged one.
    """
    record = replay_record(facts, where=where)
    known = {field.name for field in dataclasses.fields(Settings)}
    values = {name: value for name, value in facts["request"].items() if name in known}
    values |= {"bundle": record.bundle.name, "device": record.device.split(":")[0], "batch_size": record.batch_size}
    asked = record.request
    return Request(() if asked.targets == "all" else asked.targets, Settings().updated(values, where=where),
                   asked.slices, region=asked.region, check_prompts=asked.check_prompts)


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{name} was {then.get(name) or 'not there'}, is {now.get(name) or 'not there'}"
            for name in {**then, **now} if then.get(name) != now.get(name)]
