"""A study in one call, for Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from napari_claps.inference.pipeline import Pipeline
from napari_claps.io import read
from napari_claps.io.fingerprint import sha256_of
from napari_claps.results.findings import Findings
from napari_claps.study.request import Request
from napari_claps.study.study import Study
from napari_claps.types import RetinalImage, SliceResult


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What `segment` returns: the slices with their final numbers, and the findings of the whole."""

    slices: tuple[SliceResult, ...]
    findings: Findings

    @property
    def measurements(self) -> pd.DataFrame:
        """The table of measurements."""
        return self.findings.measurements


def segment(image: RetinalImage | str | Path, *targets: str, request: Request | None = None,
            pipeline: Pipeline | None = None) -> Segmentation:
    """Segment an image or volume, as the command line and napari do.

    Parameters
    ----------
    image : RetinalImage or path
        A path is read, and its SHA-256 kept in the provenance.
    *targets : str
        Ids, synonyms or free texts; none takes those of the request, and without a request all that the bundle knows.
    request : Request, optional
        Settings, slices, region.
    pipeline : Pipeline, optional
        With a bundle that is loaded already; by default that of the settings.

    Returns
    -------
    Segmentation
        All masks are in memory; use `Study` for large volumes.

    Examples
    --------
    >>> from napari_claps import segment
    >>> found = segment("scan.vol", "drusen")  # doctest: +SKIP
    >>> found.measurements.query("measure == 'volume' and unit == 'mm3'")  # doctest: +SKIP
    """
    request = request or Request()
    if targets:
        request = replace(request, targets=targets)
    sha256 = None
    if not isinstance(image, RetinalImage):
        path = Path(image)
        image, sha256 = read(path), sha256_of(path)
    pipeline = pipeline or Pipeline.from_settings(request.settings)
    slices: list[SliceResult] = []
    with Study(image, request, pipeline, input_sha256=sha256) as study:
        for _ in study.run(slices.append):
            pass
        findings = study.finish()  # which numbers the objects of a linked volume, and only then passes its slices
        return Segmentation(tuple(slices), findings)
