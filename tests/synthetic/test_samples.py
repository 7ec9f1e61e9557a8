from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_claps.errors import InputError, OutputError
from napari_claps.io import read
from napari_claps.synthetic import SyntheticOCT, synthetic_oct
from napari_claps.synthetic.samples import SAMPLES, write_sample
from napari_claps.types import RetinalImage


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> SyntheticOCT:
    made = synthetic_oct(shape=(4, 160, 96), spacing=(0.25, 0.006, 0.05))
    sample = SAMPLES["synthetic_oct"]._replace(make=lambda: made)
    monkeypatch.setattr("napari_claps.synthetic.samples.SAMPLES", {**SAMPLES, "synthetic_oct": sample})
    return made


def test_photographs_have_no_invented_facts():
    for name, shape in (("fundus_photograph", (1411, 1411)), ("microaneurysm_crop", (102, 102))):
        image = SAMPLES[name].make()
        assert isinstance(image, RetinalImage)
        assert image.plane_shape == shape and image.source == name
        assert image.spacing is None and image.modality is None and image.laterality is None


@pytest.mark.parametrize("name", ["fundus_photograph", "microaneurysm_crop"])
def test_photograph_as_png(name, tmp_path):
    (path,) = write_sample(name, tmp_path / "new" / "folder")
    assert path.name == f"{name}.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), SAMPLES[name].make().data)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_volume_as_ome_tiff(small, tmp_path):
    image, truth = write_sample("synthetic_oct", tmp_path)
    assert (image.name, truth.name) == ("synthetic_oct.ome.tif", "synthetic_oct_truth.ome.tif")
    back = read(image)
    np.testing.assert_array_equal(back.data, small.image.data)
    assert back.spacing == pytest.approx((0.25, 0.006, 0.05))
    with tifffile.TiffFile(truth) as file:
        assert file.series[0].axes == "CZYX"
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        masks = file.asarray()
    assert masks.dtype == np.uint16
    assert [c["Name"] for c in pixels["Channel"]] == list(small.truth)
    assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == (250.0, 6.0, 50.0)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    for mask, name in zip(masks, small.truth, strict=True):
        np.testing.assert_array_equal(mask, small.truth[name])


def test_unknown_sample(tmp_path):
    with pytest.raises(InputError, match=r"no sample 'oct'. Known are: fundus_photograph, microaneurysm_crop"):
        write_sample("oct", tmp_path)


def test_folder_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_sample("microaneurysm_crop", tmp_path / "taken")
