"""What the choice of thresholds and the calibration see of an annotated image, with and without the detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.types import Modality
from training.choose.observations import observe
from training.choose.thresholds import measure
from training.data.held_out import Sample


def scan() -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
    mask = np.zeros((96, 128), bool)
    mask[40:60, 30:70] = True
    return Sample(Modality.OCT, image, {"drusen": mask}, ("drusen", "intraretinal_fluid"), None, "made/1")


def test_a_detector_that_has_learnt_from_the_images_has_no_say(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    pairs = {(p.modality, p.target): p for p in bundle.manifest.pairs if p.target in scan().targets}
    seen = observe(bundle, pairs, [scan()], boxes=False)
    assert all(one.inputs["box"] == 0 for found in seen.values() for one in found)
    (drusen,) = measure(bundle, [scan()], boxes=False)["oct", "drusen"]
    assert {k.partition("/")[0] for k in drusen if "/" in k} == {"1.0"}
    (shared,) = measure(bundle, [scan()])["oct", "drusen"]
    assert {k.partition("/")[0] for k in shared if "/" in k} == {"1.0", "0.75", "0.5"}


def test_what_is_seen_names_the_patient_and_what_is_there(tiny_bundle: Path) -> None:
    bundle = load_bundle(str(tiny_bundle))
    pairs = {(p.modality, p.target): p for p in bundle.manifest.pairs if p.target in scan().targets}
    seen = observe(bundle, pairs, [scan()])
    ((drusen,), (fluid,)) = seen[Modality.OCT, "drusen"], seen[Modality.OCT, "intraretinal_fluid"]
    assert (drusen.present, fluid.present) == (True, False) and drusen.patient == "made/1"
    assert drusen.missed is not None and fluid.missed is None, "nothing to miss where nothing is"
    assert measure(bundle, [scan()])["oct", "intraretinal_fluid"][0]["patient"] == "made/1"
