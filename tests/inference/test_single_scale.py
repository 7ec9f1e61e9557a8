"""One image at one working scale: what is timed, and where the tiles' masks come to lie."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.tiles import fuse_tiles
from napari_claps.inference.stage_clock import StageClock
from napari_claps.inference.tile_mean import resized
from napari_claps.inference.tiles import plan_tiles
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.types import Modality
from napari_claps.words.vocabulary import make_prompt


def test_a_gpu_is_waited_for_before_a_stage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    for device in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, device), "synchronize", lambda device=device: waited.append(device))
        seconds = {"encode": 0.0}
        StageClock(seconds, device).lap("encode")
        assert waited[-1] == device and seconds["encode"] > 0
    StageClock({"encode": 0.0}, "cpu").lap("encode")
    assert waited == ["cuda", "mps"]


@pytest.mark.parametrize("shape", [(991, 1024), (1001, 1203)])
def test_masks_of_all_tiles_lie_on_the_same_grid(shape: tuple[int, int]) -> None:
    """With a network that answers with the image itself, no tile is shifted against the others."""
    assert len(plan_tiles(shape)) > 1
    image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    fused = fuse_tiles(image, max(shape), "cpu", lambda view, tile: F.avg_pool2d(view, 2)[0, :1])
    whole = torch.from_numpy(image[..., 0])[None, None]
    whole = F.pad(whole, (0, shape[1] % 2, 0, shape[0] % 2), mode="replicate")
    expected = F.interpolate(F.avg_pool2d(whole, 2), scale_factor=2, mode="bilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(fused[0], expected[:shape[0], :shape[1]], atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (61, 95), (64, 95)])
@pytest.mark.parametrize("zoom", [1, 2, 0.5])
def test_masks_lie_where_the_image_shows_them(size: tuple[int, int], zoom: float) -> None:
    """A ramp, seen at half the resolution of its scaled image, comes back as the ramp at any size of the image."""
    columns = torch.arange(size[1] + size[1] % 2, dtype=torch.float32).expand(size[0] + size[0] % 2, -1)
    shape = (round(size[0] * zoom), round(size[1] * zoom))
    ramp = resized(F.avg_pool2d(columns[None, None], 2), size, shape)[0, 0]
    expected = (torch.arange(shape[1]) + 0.5) * size[1] / shape[1] - 0.5
    inside = slice(math.ceil(2 * zoom), shape[1] - math.ceil(2 * zoom))  # at the border the last value repeats
    assert tuple(ramp.shape) == shape
    torch.testing.assert_close(ramp[:, inside], expected.expand(shape[0], -1)[:, inside], atol=1e-3, rtol=0)


def test_a_target_has_the_same_boxes_whatever_is_asked_with_it(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, device="cpu")
    prompter = make_prompter("claps", bundle)
    views = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    names = ("drusen", "intraretinal_fluid", "subretinal_fluid")
    queries = {name: Query(make_prompt(name, Modality.OCT), Pair(Modality.OCT, name, box_threshold=0.0))
               for name in names}

    def boxes(*asked: str) -> dict[str, list[tuple[object, float]]]:
        with torch.inference_mode():
            (found,) = prompter.find(bundle.encode(views), [queries[a] for a in asked], (64, 96))
        return {a: [(b.corners, b.score) for b in found if asked[b.prompt] == a] for a in asked}

    alone, together = boxes("drusen"), boxes("intraretinal_fluid", "drusen", "subretinal_fluid")
    assert alone["drusen"] and alone["drusen"] == together["drusen"] and together["intraretinal_fluid"]
