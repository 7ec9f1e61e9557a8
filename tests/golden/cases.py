"""What is asked of the shipped bundle, and how the answer is kept: bits of the masks in one file, numbers in tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_claps.inference.pipeline import Pipeline
from napari_claps.measurement import measure
from napari_claps.settings import Settings
from napari_claps.synthetic import demo_volume
from napari_claps.synthetic.samples import fundus_photograph
from napari_claps.types import RetinalImage
from napari_claps.volumes.doubts import doubtful_places
from napari_claps.volumes.numbering import link_slices

FOLDER = Path(__file__).parent / "stored"
KEY = ["slice", "structure", "measure", "unit"]
"""Columns of the table of measurements that say which number a row holds."""


@dataclass(frozen=True)
class Case:
    """A run: how its image is made, what is looked for (all that the bundle knows, if empty), and where."""

    image: Callable[[], RetinalImage]
    targets: tuple[str, ...] = ()
    slices: tuple[int, ...] = (0,)
    mirrored: bool = False


CASES = {
    "photograph": Case(fundus_photograph),
    "photograph_mirrored": Case(fundus_photograph, ("optic_disc", "optic_cup"), mirrored=True),
    "volume": Case(lambda: demo_volume().image, slices=(8, 9, 10, 11)),
}


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out: (y, x) bool masks by ``target/slice``, and two tables as text and numbers."""

    masks: dict[str, np.ndarray]
    measurements: pd.DataFrame
    doubts: pd.DataFrame


def shipped() -> Pipeline:
    """The bundle of the installation, on the processor that every machine has."""
    return Pipeline.from_settings(Settings(device="cpu"))


def answer(pipeline: Pipeline, case: Case) -> Answer:
    """Run a case; slices of a volume are linked, as the command line does."""
    image = case.image()
    run = pipeline.with_settings(mirrored=case.mirrored)
    guess = run.detect_modality(image)
    targets = list(case.targets) or run.bundle.manifest.targets(guess.modality)
    found = run.run(image, targets, modality=guess, slices=case.slices)
    doubts = []
    if image.is_volume:
        with link_slices(found, image.spacing) as linked:
            results = list(linked)
            doubts = doubtful_places(linked.links)
    else:
        results = list(found)
    masks = {f"{label}/{r.index}": mask > 0 for r in results for label, mask in r.masks.items()}
    table = measure(results, image, linked=image.is_volume)[[*KEY, "value"]]
    rows = [(d.slice_index, d.label, str(d.reason), d.severity) for d in doubts]
    return Answer(masks, table, pd.DataFrame(rows, columns=["slice", "structure", "reason", "severity"]))


def write(name: str, found: Answer, folder: Path = FOLDER) -> None:
    """Keep an answer."""
    folder.mkdir(exist_ok=True)
    packed = {key: np.packbits(mask) for key, mask in found.masks.items()}
    shape = next(iter(found.masks.values())).shape
    np.savez_compressed(folder / f"{name}.npz", shape=np.array(shape), **packed)
    found.measurements.to_csv(folder / f"{name}_measurements.csv", index=False, float_format="%.6g")
    if "volume" in name:
        found.doubts.to_csv(folder / f"{name}_doubts.csv", index=False, float_format="%.4f")


def stored(name: str, folder: Path = FOLDER) -> Answer:
    """An answer that was kept."""
    with np.load(folder / f"{name}.npz") as file:
        shape = tuple(file["shape"].tolist())
        masks = {key: np.unpackbits(file[key], count=shape[0] * shape[1]).reshape(shape).astype(bool)
                 for key in file.files if key != "shape"}
    table = pd.read_csv(folder / f"{name}_measurements.csv").astype({"slice": "Int64"})
    path = folder / f"{name}_doubts.csv"
    return Answer(masks, table, pd.read_csv(path) if path.exists() else pd.DataFrame())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks; of two empty ones 1."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0
