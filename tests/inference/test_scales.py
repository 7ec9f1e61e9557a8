"""Tiles cover every pixel, and their fusion gives back what was cut."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from napari_claps.inference.scales import MULTIPLE, scaled_shape, working_side
from napari_claps.inference.single_scale import cut
from napari_claps.inference.tiles import plan_tiles, tile_weight
from napari_claps.types import Modality
from napari_claps.words.vocabulary import Kind

SHAPES = st.tuples(st.integers(32, 2600), st.integers(32, 2600))


@settings(max_examples=30, deadline=None)
@given(SHAPES)
@example((33, 1025))
def test_tiles_cover_the_image(shape: tuple[int, int]) -> None:
    covered = np.zeros(shape, bool)
    for tile in plan_tiles(shape):
        assert tile.height % MULTIPLE == 0 and tile.width % MULTIPLE == 0
        assert tile.y % 2 == 0 and tile.x % 2 == 0, "masks have half the resolution"
        covered[tile.y:tile.y + tile.height, tile.x:tile.x + tile.width] = True
    assert covered.all()


@settings(max_examples=6, deadline=None)
@given(st.tuples(st.integers(820, 1100), st.integers(820, 1100)))
def test_weighted_mean_of_tiles_is_the_image(shape: tuple[int, int]) -> None:
    image = torch.arange(shape[0] * shape[1], dtype=torch.float64).reshape(1, 1, *shape)
    tiles = plan_tiles(shape)
    extent = (max(t.y + t.height for t in tiles), max(t.x + t.width for t in tiles))
    total, weights = torch.zeros(1, 1, *extent, dtype=torch.float64), torch.zeros(extent, dtype=torch.float64)
    for tile in tiles:
        w = torch.from_numpy(tile_weight(tile)).double()
        total[..., tile.y:tile.y + tile.height, tile.x:tile.x + tile.width] += cut(image, tile) * w
        weights[tile.y:tile.y + tile.height, tile.x:tile.x + tile.width] += w
    mean = (total / weights)[..., :shape[0], :shape[1]]
    assert torch.allclose(mean, image)


@given(SHAPES, st.integers(64, 2000))
def test_scaling_keeps_the_aspect(shape: tuple[int, int], side: int) -> None:
    height, width = scaled_shape(shape, side)
    assert max(height, width) == max(side, MULTIPLE)
    if min(height, width) > MULTIPLE:
        assert abs(height / shape[0] - width / shape[1]) * min(shape) <= 1


def test_bscans_stay_near_their_own_sampling_unless_they_are_small() -> None:
    assert working_side(Modality.OCT, Kind.OBJECT, (496, 512)) == 640
    assert working_side(Modality.OCT, Kind.OBJECT, (496, 1536)) == 768
    assert working_side(Modality.CFP, Kind.TREE, (584, 565)) > working_side(Modality.CFP, Kind.OBJECT, (584, 565))


def test_angiograms_are_magnified_as_far_as_one_view_reaches() -> None:
    assert working_side(Modality.OCTA, Kind.TREE, (304, 304)) == 640
    assert working_side(Modality.OCTA, Kind.TREE, (400, 400)) == 800
    assert len(plan_tiles((800, 800))) == 1
