"""Pixels of any kind become RGB in [0, 1]."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from napari_claps.errors import InputError
from napari_claps.inference.preprocess import display_limits, to_unit_rgb


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, bool])
def test_any_real_type_is_mapped(dtype: type) -> None:
    plane = (np.random.default_rng(0).random((20, 30)) * 100).astype(dtype)
    unit = to_unit_rgb(plane)
    assert unit.shape == (20, 30, 3) and unit.dtype == np.float32 and 0 <= unit.min() <= unit.max() <= 1


def test_eight_bit_pixels_are_not_stretched() -> None:
    plane = np.full((10, 10), 51, np.uint8)
    assert np.allclose(to_unit_rgb(plane), 0.2)


def test_one_mapping_for_all_slices() -> None:
    volume = np.stack([np.full((10, 10), 100, np.uint16), np.full((10, 10), 300, np.uint16)])
    limits = display_limits(volume)
    assert to_unit_rgb(volume[0], limits=limits).mean() < to_unit_rgb(volume[1], limits=limits).mean()


def test_a_constant_image_is_no_error() -> None:
    assert np.isfinite(to_unit_rgb(np.full((10, 10), 7.0))).all()


def test_nan_is_refused_with_its_count() -> None:
    plane = np.ones((10, 10), np.float32)
    plane[0, :3] = np.nan
    with pytest.raises(InputError, match=r"scan\.tif: 3 of 100 values are NaN or infinite"):
        to_unit_rgb(plane, source="scan.tif")


def test_complex_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="complex"):
        to_unit_rgb(np.ones((10, 10), complex))


def test_limits_do_not_copy_a_volume_whose_axes_are_turned() -> None:
    volume = np.arange(20_000_000, dtype=np.uint16).reshape(100, 400, 500)
    turned = np.asfortranarray(volume)  # as NIfTI keeps it
    expected = display_limits(volume)
    tracemalloc.start()
    try:
        assert display_limits(turned) == expected
        assert tracemalloc.get_traced_memory()[1] < turned.nbytes
    finally:
        tracemalloc.stop()
