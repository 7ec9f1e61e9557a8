from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_claps.errors import InputError
from napari_claps.synthetic import BANDS, SyntheticOCT, demo_volume, synthetic_bscan, synthetic_oct
from napari_claps.synthetic.anatomy import FINDINGS
from napari_claps.types import Modality, SpacingSource
from napari_claps.words.vocabulary import TARGETS

SMALL = {"shape": (8, 192, 160), "spacing": (0.25, 0.0055, 0.035)}


@pytest.fixture(scope="module")
def volume() -> SyntheticOCT:
    return synthetic_oct(seed=2, findings=FINDINGS, **SMALL)


def test_image(volume: SyntheticOCT):
    image = volume.image
    assert image.data.shape == (8, 192, 160) and image.data.dtype == np.uint8
    assert image.modality is Modality.OCT
    assert image.spacing == (0.25, 0.0055, 0.035) and image.spacing_source is SpacingSource.FILE
    assert image.source == "synthetic-oct-2" and image.laterality == "R"
    assert set(volume.truth) == {*BANDS, *FINDINGS} <= set(TARGETS)
    for mask in volume.truth.values():
        assert mask.shape == image.data.shape and mask.dtype == np.uint16


def test_same_seed_same_volume(volume: SyntheticOCT):
    again = synthetic_oct(seed=2, findings=FINDINGS, **SMALL)
    np.testing.assert_array_equal(again.image.data, volume.image.data)
    for name, mask in volume.truth.items():
        np.testing.assert_array_equal(again.truth[name], mask)


def test_other_seed_other_volume(volume: SyntheticOCT):
    other = synthetic_oct(seed=3, findings=FINDINGS, **SMALL)
    assert (other.image.data != volume.image.data).mean() > 0.5
    assert (other.truth["retina"] != volume.truth["retina"]).any()


def _of(volume: SyntheticOCT, layer: str) -> np.ndarray:
    return np.broadcast_to(volume.layers[layer][:, None, :], volume.image.data.shape)


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_findings_lie_where_they_belong(seed: int):
    v = synthetic_oct(seed=seed, **SMALL)
    y = np.arange(v.image.data.shape[1])[None, :, None]
    t = {name: mask > 0 for name, mask in v.truth.items()}
    assert all(mask.any() for mask in t.values())
    # drusen: from within the pigment epithelium down to Bruch's membrane, which they touch
    assert ((y >= _of(v, "rpe")) & (y <= _of(v, "bm")))[t["drusen"]].all()
    assert not (t["drusen"] & ~t["rpe_bm_complex"]).any()
    # subretinal fluid: above the pigment epithelium, below the photoreceptors
    assert ((y >= _of(v, "photoreceptor_end")) & (y <= _of(v, "rpe")))[t["subretinal_fluid"]].all()
    # intraretinal fluid: inside the retina, and never in the outer segments
    assert not (t["intraretinal_fluid"] & ~t["retina"]).any()
    assert (y <= _of(v, "elm"))[t["intraretinal_fluid"]].all()
    assert not (t["retina"] & (t["subretinal_fluid"] | t["rpe_bm_complex"])).any()


def test_surfaces_keep_their_order(volume: SyntheticOCT):
    depth = np.stack(list(volume.layers.values()))
    assert next(iter(volume.layers)) == "ilm" and list(volume.layers)[-1] == "bm"
    assert (np.diff(depth, axis=0) >= -1e-9).all()
    assert np.isfinite(depth).all()


def test_retina_is_one_band_in_every_bscan(volume: SyntheticOCT):
    for name in BANDS:
        for plane in volume.truth[name] > 0:
            assert plane.any(0).all(), name
            assert (np.diff(plane.astype(np.int8), axis=0) == 1).sum(0).max() <= 1, name  # one run per A-scan


def test_instances_are_connected(volume: SyntheticOCT):
    for name in FINDINGS:
        mask = volume.truth[name]
        assert set(np.unique(mask)) == set(range(int(mask.max()) + 1))
        for number in range(1, int(mask.max()) + 1):
            # axial motion shifts whole B-scans, so the projection along depth is what must hang together
            _, pieces = ndimage.label((mask == number).any(1), np.ones((3, 3)))
            assert pieces == 1, (name, number)


def test_fluid_is_darker_than_the_tissue_around_it():
    v = synthetic_oct(seed=5)
    grey = {name: v.image.data[mask > 0].mean() for name, mask in v.truth.items()}
    tissue = v.image.data[(v.truth["retina"] > 0) & (v.truth["intraretinal_fluid"] == 0)].mean()
    assert grey["intraretinal_fluid"] < 0.75 * tissue
    assert grey["subretinal_fluid"] < 0.7 * tissue
    assert grey["rpe_bm_complex"] > 1.3 * tissue


def test_physical_size_does_not_depend_on_the_grid():
    # the random numbers are drawn per object, not per pixel, so the anatomy is the same on a finer grid
    coarse = synthetic_oct(seed=4, findings=(), shape=(3, 192, 128), spacing=(0.5, 0.006, 0.04))
    fine = synthetic_oct(seed=4, findings=(), shape=(3, 384, 128), spacing=(0.5, 0.003, 0.04))
    thick = [np.median(v.layers["bm"] - v.layers["ilm"]) * v.image.spacing[1] for v in (coarse, fine)]
    assert thick[0] == pytest.approx(thick[1], rel=1e-6)
    assert 0.2 < thick[0] < 0.5  # mm


def test_nasal_nerve_fibres_are_thicker():
    def nasal_minus_temporal(laterality: str) -> float:
        total = 0.0
        for seed in range(4):
            v = synthetic_oct(seed=seed, findings=(), laterality=laterality, shape=(4, 160, 128),
                              spacing=(0.3, 0.006, 0.045))
            rnfl = v.layers["rnfl_gcl"] - v.layers["ilm"]
            total += float(rnfl[:, 96:].mean() - rnfl[:, :32].mean())
        return total

    assert nasal_minus_temporal("R") > 0 > nasal_minus_temporal("L")


def test_nothing_but_bands_without_findings():
    v = synthetic_oct(seed=1, findings=(), **SMALL)
    assert set(v.truth) == set(BANDS)


def test_demo_shows_everything():
    v = demo_volume()
    assert v.image.data.shape == (24, 384, 512)
    for name in ("drusen", "intraretinal_fluid", "subretinal_fluid"):
        assert (v.truth[name] > 0).any((1, 2)).sum() >= 4, name  # in several B-scans
    inside = (v.layers["ilm"] > 0) & (v.layers["bm"] < 384)
    assert inside.all()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(130, 300), width=st.integers(60, 400))
def test_any_bscan(seed: int, height: int, width: int):
    image, truth = synthetic_bscan(np.random.default_rng(seed), shape=(height, width))
    again, _ = synthetic_bscan(np.random.default_rng(seed), shape=(height, width))
    np.testing.assert_array_equal(image, again)
    assert image.shape == (height, width) and image.dtype == np.uint8
    assert set(truth) == {*BANDS, *FINDINGS}
    assert all(m.shape == image.shape and m.dtype == bool for m in truth.values())
    assert truth["retina"].any() and truth["rpe_bm_complex"].any()
    assert not (truth["subretinal_fluid"] & truth["drusen"]).any()
    assert image.std() > 3


def test_bscan_shows_the_findings_asked_for():
    rng = np.random.default_rng(0)
    seen = {name: False for name in FINDINGS}
    for _ in range(10):
        _, truth = synthetic_bscan(rng, shape=(200, 200), findings=("drusen",))
        for name in FINDINGS:
            seen[name] |= bool(truth[name].any())
    assert seen == {name: name == "drusen" for name in FINDINGS}


def test_unknown_finding():
    with pytest.raises(InputError, match=r"no 'drussen'.*drusen, intraretinal_fluid"):
        synthetic_oct(findings=("drussen",))


def test_too_small():
    with pytest.raises(InputError, match=r"0.08 mm of depth; a retina needs"):
        synthetic_oct(shape=(4, 20, 64))
