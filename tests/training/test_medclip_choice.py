"""Choosing the settings of medclip-sam: which tiles are tried, what is measured, which settings win, the file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_claps.inference.tiles import Tile
from napari_claps.methods.base import ViewBox, ViewPoint
from napari_claps.methods.medclip.options import make_options
from napari_claps.methods.medclip.points import PointRule, PromptKind
from napari_claps.methods.medclip.regions import Cut
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.networks.segmenter import MaskPrediction
from napari_claps.types import Modality
from napari_claps.words.vocabulary import Kind
from training.choose import medclip_measures
from training.choose.medclip import as_toml, choose
from training.choose.medclip_measures import NONSENSE_TEXT, View, masks_of, measure, telling_tiles, union_dice
from training.data.records import Record


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, device="cpu")


def test_the_tile_with_most_and_the_middle_one_with_nothing() -> None:
    tiles = [Tile(y, x, 10, 10) for y in (0, 10, 20) for x in (0, 10, 20)]
    truth = np.zeros((30, 30), bool)
    assert telling_tiles(truth, tiles) == [Tile(10, 10, 10, 10)]
    truth[12:14, 12:14] = truth[1:5, 22:28] = True
    first, second = telling_tiles(truth, tiles)
    assert first == Tile(0, 20, 10, 10) and second in (Tile(0, 10, 10, 10), Tile(10, 0, 10, 10))
    truth[:] = True
    assert len(telling_tiles(truth, tiles)) == 1


def test_dice_is_that_of_the_union() -> None:
    truth = np.zeros((4, 4), bool)
    truth[:2] = True
    upper, left = truth.copy(), np.zeros((4, 4), bool)
    left[:, :2] = True
    assert union_dice([upper], truth) == 1 and union_dice([], truth) == 0
    assert union_dice([upper, left], truth) == pytest.approx(2 * 8 / (12 + 8))


def test_what_sam_draws_far_from_a_box_does_not_count(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        view = View(bundle.encode(torch.rand(1, 3, 64, 96)), (64, 96), None)
        everywhere = MaskPrediction(torch.full((2, 32, 48), 3.0), torch.zeros(2), torch.zeros(2))
        monkeypatch.setattr(medclip_measures, "ask_masks", lambda *_: everywhere)
        box = ViewBox((20.0, 20.0, 40.0, 40.0), 0, 0.0)
        points = ViewBox((20.0, 20.0, 40.0, 40.0), 0, 0.0, (ViewPoint(30.0, 30.0, True),), points_alone=True)
        masks = masks_of(bundle, view, Modality.OCT, [box, points], 0.5)
    assert (masks[box].sum(), masks[points].sum()) == (12 * 12, 30 * 30)


def test_rows_of_an_image(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medclip_measures, "BOTTLENECKS", {Kind.OBJECT: ((4, 1.0, 1.0),)})
    monkeypatch.setattr(medclip_measures, "CUTS", ((Cut.KMEANS, 0.3),))
    rng = np.random.default_rng(0)
    mask = np.zeros((48, 64), np.uint8)
    mask[20:30, 10:30] = 255
    for name, pixels in (("scan", (rng.random((48, 64)) * 255).astype(np.uint8)), ("drusen", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    record = Record("made", Modality.OCT, tmp_path / "scan.png", ("drusen", "intraretinal_fluid", "retina", "shrm"),
                    {"drusen": tmp_path / "drusen.png"})
    rows = measure(bundle, record, nonsense=True)
    # A layer has no box, and the bundle knows no SHRM.
    assert {r["target"] for r in rows} == {"drusen", "intraretinal_fluid", NONSENSE_TEXT}
    assert len(rows) == 3 * 3 * len(medclip_measures.POINTS)
    for row in rows:
        assert row["present"] is (row["target"] == "drusen") and (row["dice"] is None) is not row["present"]
        assert 0 <= row["score"] <= 1 and (row["kind"], row["layer"], row["cut"]) == ("object", 4, "kmeans")
    drawn = [r["dice"] for r in rows if r["present"]]
    assert max(drawn) > 0 and len(set(drawn)) > 1  # boxes and points give different masks


def row(target: str, dice: float | None, score: float, image: str = "a", **changes: object) -> dict:
    return {"layer": 3, "beta": 1.0, "variance": 1.0, "cut": "kmeans", "threshold": 0.3, "components": 1,
            "prompts": "boxes", "positives": 1, "negatives": 0, "image": image, "view": 0, "target": target,
            "present": dice is not None, "dice": dice, "score": score} | changes


def test_the_best_mean_over_targets_wins_and_the_first_of_equals() -> None:
    points = {"prompts": "points", "positives": 3, "negatives": 3}
    more = points | {"components": 2}
    rows = [row("disc", 0.80, 0.9), row("disc", 0.82, 0.7, "b"), row("cup", 0.20, 0.8), row("cup", None, 0.3, "b"),
            row(NONSENSE_TEXT, None, 0.1), row(NONSENSE_TEXT, None, 0.1, **points),
            row("disc", 0.60, 0.9, **points), row("disc", 0.60, 0.7, "b", **points), row("cup", 0.70, 0.8, **points),
            row("cup", None, 0.3, "b", **points),
            row("disc", 0.61, 0.9, **more), row("disc", 0.61, 0.9, "b", **more), row("cup", 0.70, 0.8, **more),
            row("disc", 0.99, 0.9, layer=4), row("cup", 0.99, 0.9, layer=4)]  # not tried in all views
    chosen = choose(rows)
    assert (chosen["prompts"], chosen["components"], chosen["layer"]) == ("points", 1, 3)
    assert chosen["dice"] == {"disc": pytest.approx(0.6), "cup": pytest.approx(0.7)} and chosen["n_views"] == 4
    assert chosen["score"] == pytest.approx((0.8 + 0.2) / 2) and chosen["nonsense"] == [0.1]
    rows[3]["score"] = rows[9]["score"] = 1.0  # what is not there may score higher, but what is there is kept
    assert choose(rows)["score"] <= 0.7


def test_the_file_is_read_back(bundle: Bundle) -> None:
    found = choose([row("haemorrhage", 0.5, 0.6, prompts="both", negatives=2, components=8),
                    row("haemorrhage", None, 0.2, prompts="both", negatives=2, components=8)])
    text = as_toml({"cfp": choose([row("optic_disc", 0.5, 0.6)]), "cfp.lesion": found}, "tiny 0.0.1")
    options = make_options(tomllib.loads(text)["cfp"])
    assert options.points == PointRule() and options.regions.components == 1
    assert options.lesion is not None and options.lesion.points == PointRule(PromptKind.BOTH, 1, 2)
    assert options.lesion.regions.components == 8 and options.lesion.score == pytest.approx(0.4)
    assert "haemorrhage 0.50" in text and "present 0.60 (n=1), missing 0.20 (n=1)" in text and "tiny 0.0.1" in text
