"""Projections and thickness maps: exact values, units, and what is not known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_claps.errors import InputError
from napari_claps.synthetic import synthetic_oct
from napari_claps.volumes.enface import Projection, project, thickness_map

SPACING = (0.12, 0.004, 0.011)


@pytest.fixture
def slab():
    """A slab of 7 rows, numbered by slice, in columns 2 to 8."""
    mask = np.zeros((5, 30, 10), np.uint16)
    mask[:, 11:18, 2:9] = np.arange(1, 6)[:, None, None]
    return mask


def test_thickness_of_a_slab_is_exact_in_micrometres(slab):
    found = thickness_map(slab, SPACING)
    assert found.data.shape == (5, 10)
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data[:, 2:9], 28.0, rtol=1e-6)
    assert (found.data[:, [0, 1, 9]] == 0).all(), "looked for and not there"
    assert (found.unit, found.spacing) == ("um", (0.12, 0.011))


def test_without_spacing_thickness_is_in_pixels(slab):
    found = thickness_map(slab)
    assert set(np.unique(found.data)) == {0, 7}
    assert (found.unit, found.spacing) == ("px", None)


def test_parts_in_a_column_add_up(slab):
    slab[2, 13] = 0
    slab[2, 25:27, 4] = 3
    found = thickness_map(slab)
    assert (found.data[2, 2], found.data[2, 4]) == (6, 8)


def test_what_was_not_looked_at_is_nan(slab):
    coverage = np.ones((5, 10), bool)
    coverage[:, :3] = False
    found = thickness_map(slab, SPACING, slices=[0, 2, 4], coverage=coverage)
    assert np.isnan(found.data[[1, 3]]).all()
    assert np.isnan(found.data[:, :3]).all()
    assert np.isfinite(found.data[::2, 3:]).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrays(bool, (3, 9, 4)), st.floats(0.001, 0.1))
def test_thickness_times_area_is_volume(mask, dy):
    spacing = (0.2, dy, 0.01)
    found = thickness_map(mask, spacing)
    assert found.data.sum(dtype=float) / 1000 == pytest.approx(np.count_nonzero(mask) * dy, rel=1e-5)


def test_projection_over_depth():
    volume = np.arange(3 * 6 * 4, dtype=np.uint8).reshape(3, 6, 4)
    found = project(volume, SPACING)
    np.testing.assert_allclose(found.data, volume.mean(1))
    assert (found.unit, found.spacing, found.data.dtype) == ("grey", (0.12, 0.011), np.float32)
    np.testing.assert_array_equal(project(volume, how="max").data, volume.max(1))
    assert project(volume).spacing is None


def test_projection_between_surfaces():
    volume = np.zeros((2, 10, 3), np.float32)
    volume[:, 4] = 2
    volume[:, 5] = 4
    volume[:, 6] = 100
    top = np.full((2, 3), 4.0)
    bottom = np.array([[6.0, 5.0, 4.0], [5.5, np.nan, 99.0]])
    mean = project(volume, how=Projection.MEAN, top=top, bottom=bottom).data
    np.testing.assert_allclose(mean, [[3, 2, np.nan], [3, np.nan, 106 / 6]], rtol=1e-6)
    highest = project(volume, how="max", top=4, bottom=bottom).data
    np.testing.assert_array_equal(highest, [[4, 2, np.nan], [4, np.nan, 100]])


def test_negative_values_keep_their_maximum():
    assert (project(np.full((2, 8, 3), -5.0), how="max", top=2, bottom=4).data == -5).all()


def test_chosen_slices_only():
    found = project(np.ones((4, 8, 3)), slices=[1, 3]).data
    assert np.isnan(found[[0, 2]]).all()
    assert (found[[1, 3]] == 1).all()


def test_layers_and_masks_of_a_synthetic_eye_agree():
    eye = synthetic_oct(shape=(3, 160, 120), spacing=(0.24, 0.006, 0.03), findings=("drusen",), seed=1)
    found = thickness_map(eye.truth["retina"], eye.image.spacing).data
    ilm, end = eye.layers["ilm"], eye.layers["photoreceptor_end"]
    np.testing.assert_allclose(found, (end - ilm) * 6, atol=6.01)  # within the rounding to whole pixels
    inside = project(eye.truth["retina"] > 0, top=ilm + 1, bottom=end - 1)
    assert np.nanmin(inside.data) == 1.0


class Lazy:
    """Like a Dask array: has a shape, and gives one slice at a time."""

    shape = (3, 8, 4)

    def __getitem__(self, index):
        assert isinstance(index, int), "the whole volume was asked for"
        return np.full((8, 4), index)


def test_volumes_are_read_slice_by_slice():
    np.testing.assert_array_equal(project(Lazy()).data[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(thickness_map(Lazy()).data[:, 0], [0, 8, 8])


@pytest.mark.parametrize(("work", "message"), [
    (lambda v: project(v[0]), r"needs a volume .* shape \(8, 3\)"),
    (lambda v: thickness_map(v[..., None]), "not a single image or a colour image"),
    (lambda v: project(v, how="median"), "no projection 'median'. Choose mean or max"),
    (lambda v: project(v, top=np.zeros((3, 4))), r"top surface has shape \(3, 4\); .* \(z, x\) = \(4, 3\)"),
    (lambda v: project(v, bottom=np.zeros(3)), "bottom surface"),
    (lambda v: project(v, slices=[4]), "no slice 4: the volume has slices 0 to 3"),
    (lambda v: thickness_map(v, slices=[-1]), "no slice -1"),
    (lambda v: thickness_map(v, coverage=np.ones((3, 4), bool)), r"coverage has shape \(3, 4\)"),
])
def test_errors_say_what_to_do(work, message):
    with pytest.raises(InputError, match=message):
        work(np.ones((4, 8, 3)))
