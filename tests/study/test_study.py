"""The conductor: what it says of a run that was cancelled, and of pixels that are not those of the file."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from napari.layers import Image

from napari_claps.errors import InputError
from napari_claps.io import read
from napari_claps.plugin.engine import _sha256
from napari_claps.plugin.layers import LayerSource, image_layer_data
from napari_claps.study.replay import Replay, request_of
from napari_claps.study.request import Request, slices_text
from napari_claps.study.study import Study
from napari_claps.types import Modality, RetinalImage
from tests.study.test_batch import ThresholdPipeline


def scan(spacing=None):
    data = np.zeros((5, 24, 32), np.uint8)
    data[:, 5:9, 5:9] = 200
    return RetinalImage(data, modality=Modality.OCT, spacing=spacing)


def test_a_cancelled_run_asks_for_the_slices_that_were_done():
    with Study(scan(), Request(("drusen",), slices="0:5:2"), ThresholdPipeline()) as study:
        running = study.run()
        next(running), next(running)
        running.close()
        facts = study.finish().provenance
    assert facts["slices"] == [0, 2] and facts["request"]["slices"] == "0:3:2"
    assert request_of(facts, where="facts").slices == "0:3:2"


def test_a_whole_run_asks_for_what_was_asked():
    with Study(scan(), Request(("drusen",)), ThresholdPipeline()) as study:
        assert len(list(study.run())) == 5
        assert study.finish().provenance["request"]["slices"] is None


def test_a_spacing_that_somebody_changed_is_named_when_a_run_is_repeated(tmp_path):
    facts = []
    for spacing in ((0.12, 0.004, 0.011), None):
        with Study(scan(spacing), Request(("drusen",)), ThresholdPipeline()) as study:
            list(study.run())
            facts.append(study.finish().provenance)
    then = Replay(tmp_path / "provenance.json", facts[0], request_of(facts[0], where="facts"))
    assert not then.decision_differences(facts[0])
    assert "spacing in mm was" in " ".join(then.decision_differences(facts[1]))


@pytest.mark.parametrize("change", ["pixels", "file"])
def test_only_pixels_of_the_file_carry_its_fingerprint(tmp_path, change):
    path = tmp_path / "eye.tif"
    tifffile.imwrite(path, np.full((20, 30), 7, np.uint8))
    data, options, _ = image_layer_data(read(path), "eye", path=path)
    layer = Image(data.copy() if not data.flags.writeable else data, **options)
    layer.metadata["napari_claps_origin"].image.data.setflags(write=True)
    assert _sha256(LayerSource.of(layer)) is not None or layer.data is not data
    if change == "pixels":
        layer.data[:5] = 0
    else:
        tifffile.imwrite(path, np.full((20, 30), 8, np.uint8))
    assert _sha256(LayerSource.of(layer)) is None


def test_uneven_slices_are_refused():
    assert slices_text([]) is None
    for indices in ([0, 1, 3], [3, 2, 1]):
        with pytest.raises(InputError, match="evenly spaced"):
            slices_text(indices)
