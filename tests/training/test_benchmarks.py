"""The comparisons of the model card on tiny data: a plain U-Net, and the mask head with the true boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from benchmarks import annotations, artery_vein, limits, mirrored, sam_boxes, unet
from benchmarks.tiles import fuse_tiles
from napari_claps.errors import InputError
from napari_claps.inference import single_scale
from napari_claps.inference.pipeline import Pipeline
from napari_claps.inference.tiles import Tile, plan_tiles
from napari_claps.models.bundles.bundle import load_bundle
from napari_claps.types import Modality, ModalityGuess, RetinalImage
from tests.training_data import CONFIG, write_clip, write_data
from training.choose.scoring import Annotated
from training.data.records import segmentation_records
from training.data.scales import targets_by_side


@pytest.fixture
def data(tmp_path, monkeypatch):
    root = write_data(tmp_path / "data", count=14)
    text = (root / "segmentation.csv").read_text().splitlines()
    text[-2:] = [line.replace(",train,", ",val,") for line in text[-2:]]
    (root / "segmentation.csv").write_text("\n".join(text) + "\n")
    monkeypatch.setenv("CLAPS_DATA", str(root))
    return root


def write_config(path, **values):
    config = {**CONFIG, **values}
    lines = [f"{k} = {json.dumps(v)}" for k, v in config.items() if not isinstance(v, dict)]
    lines += [f"[{k}]\n" + "\n".join(f"{a} = {json.dumps(b)}" for a, b in v.items()) for k, v in config.items()
              if isinstance(v, dict)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("shape", "tiles"), [((50, 100), 1), ((700, 1400), 6), ((1500, 1500), 16)])
def test_fused_tiles_are_the_image(shape, tiles) -> None:
    image = np.random.default_rng(0).random((shape[0] // 50, shape[1] // 50, 3)).astype(np.float32)
    image = np.kron(image, np.ones((50, 50, 1), np.float32))
    side = max(image.shape[:2])
    assert len(plan_tiles(image.shape[:2])) == tiles
    found = fuse_tiles(image, side, "cpu", lambda view, tile: torch.nn.functional.avg_pool2d(view, 2)[0, :2])
    assert found.shape == (2, *image.shape[:2])
    assert np.abs(found - image[..., :2].transpose(2, 0, 1)).mean() < 0.02


class Scaled(Exception):
    """Raised when the pipeline has chosen its scale."""


@pytest.mark.parametrize("shape", [(90, 120), (700, 900), (1500, 2000), (2400, 3000)])
@pytest.mark.parametrize("modality", [Modality.CFP, Modality.OCT])
def test_targets_are_grouped_as_the_pipeline_does(tiny_bundle, monkeypatch, modality, shape) -> None:
    def stop(planes, side, device):
        raise Scaled(side)

    monkeypatch.setattr(single_scale, "scaled_batch", stop)
    pipeline = Pipeline(load_bundle(tiny_bundle, device="cpu"))
    image = RetinalImage(np.zeros(shape, np.uint8), modality=modality)
    targets = pipeline.bundle.manifest.targets(modality)
    assert len(targets) > 4

    def looked_for_at(target):
        with pytest.raises(Scaled) as chosen:
            list(pipeline.run(image, [target], modality=ModalityGuess(modality, None, "user")))
        return chosen.value.args[0]

    expected = {}
    for target in targets:
        expected.setdefault(looked_for_at(target), []).append(target)
    assert targets_by_side(modality, targets, shape) == expected
    assert len(expected) == (1 if modality is Modality.OCT else 3 if max(shape) > 512 else len(expected))


def test_boxes_are_cut_at_the_border_of_a_tile() -> None:
    boxes = np.array([[10.0, 20.0, 40.0, 60.0], [90.0, 90.0, 95.0, 99.0], [0.0, 0.0, 30.4, 31.0]])
    assert sam_boxes.boxes_in(Tile(30, 30, 32, 64), boxes).tolist() == [[0.0, 0.0, 30.0, 10.0]]


def test_unet_learns_what_was_asked_and_is_scored(data, tmp_path, capsys) -> None:
    config = write_config(tmp_path / "tiny.toml", steps=8, save_every=4, synthetic=0)
    arguments = ["--modality", "oct", "--config", config, "--init", write_clip(tmp_path / "clip"), "--limit", 1,
                 "--out", tmp_path / "unet"]
    assert unet.main([str(a) for a in arguments]) == 0
    facts = json.loads((tmp_path / "unet" / "unet.json").read_text())
    assert facts["steps"] == 8 and set(facts["thresholds"]) == {"drusen", "intraretinal_fluid"}
    assert {r["target"] for r in facts["summary"]} == {"drusen", "intraretinal_fluid"}
    assert all(0 <= r["dice"] <= 1 and 0 <= r["aupr"] <= 1 for r in facts["summary"] if r["n_present"])
    rows = [json.loads(line)["loss"] for line in (tmp_path / "unet" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and np.mean(rows[-2:]) < np.mean(rows[:2])
    assert (tmp_path / "unet" / "data.csv").exists()

    more = write_config(tmp_path / "more.toml", steps=2, save_every=4, synthetic=0, learn_all=True)
    again = [*arguments[:2], "--config", more, *arguments[4:-1], tmp_path / "more", "--warm", tmp_path / "unet"]
    assert unet.main([str(a) for a in again]) == 0
    then = json.loads((tmp_path / "more" / "unet.json").read_text())
    assert then["steps"] == 10 and set(then["thresholds"]) == set(facts["thresholds"])
    assert len((tmp_path / "more" / "data.csv").read_text().splitlines()) > len(
        (tmp_path / "unet" / "data.csv").read_text().splitlines()), "it learns from the images held out before, too"
    old, new = (torch.load(tmp_path / run / "final.pt", weights_only=True)["model"] for run in ("unet", "more"))
    assert 0 < max((new[k] - v).abs().max() for k, v in old.items() if "blocks" in k) < 0.1
    assert unet.main([*map(str, again[:-1]), str(tmp_path / "clip")]) == 1
    assert "clip: holds no finished run of benchmarks.unet (FileNotFoundError" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"final\.pt: is no U-Net for vessel, but for drusen, intraretinal_fluid\."):
        unet.take_weights(unet.UNet(1), tmp_path / "unet" / "final.pt", ["vessel"])

    assert unet.main([*map(str, arguments[:-1]), str(tmp_path / "b"), "--exclude-dataset", "made"]) == 1
    assert "no image of the 15 % held out is left" in capsys.readouterr().err
    arguments[1] = "cfp"
    assert unet.main([str(a) for a in arguments]) == 1
    assert "No image of modality cfp is left. There are: oct" in capsys.readouterr().err


def test_unet_starts_from_the_trunk_of_a_checkpoint(tmp_path) -> None:
    net = unet.UNet(2)
    checkpoint = write_clip(tmp_path / "clip")
    unet.start_trunk(net, checkpoint, frozen_blocks=2)
    theirs = torch.load(checkpoint, weights_only=True)["model"]
    assert torch.equal(net.trunk.conv_stem.weight, theirs["model.visual.trunk.conv_stem.weight"])
    assert [net.trunk.blocks[i][0].conv_dw.weight.requires_grad for i in (1, 2)] == [False, True]
    with torch.no_grad():
        assert net.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 2, 32, 48)
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: holds no trunk tf_efficientnet_lite0"):
        unet.start_trunk(net, tmp_path / "x.pt", frozen_blocks=1)


def test_true_boxes_are_prompts_with_and_without_text(data, tiny_bundle, tmp_path) -> None:
    path = tmp_path / "boxes.json"
    assert sam_boxes.main(["--bundle", str(tiny_bundle), "--device", "cpu", "--out", str(path)]) == 0
    both, alone = (json.loads(p.read_text()) for p in (path, tmp_path / "boxes_without_text.json"))
    assert both["prompt"] == "text and box" and alone["prompt"] == "box" and len(both["sha256"]) == 64
    for facts in (both, alone):
        assert {r["target"] for r in facts["summary"]} <= {"drusen", "intraretinal_fluid"} and facts["summary"]
        assert all(0 <= r["dice"] <= 1 for r in facts["summary"])
    assert both["summary"] != alone["summary"], "the text plays a part"


def test_a_target_without_a_true_box_has_no_mask(data, tiny_bundle) -> None:
    item = Annotated.read(segmentation_records("val")[0])
    empty = Annotated(item.record, item.image, {t: np.zeros_like(m) for t, m in item.truth.items()}, None)
    bundle = load_bundle(str(tiny_bundle), device="cpu")
    assert sam_boxes.masks_of_boxes(bundle, empty, ["drusen"], 448, with_text=True).max() == 0
    assert sam_boxes.masks_of_boxes(bundle, item, ["drusen"], 448, with_text=True).max() > 0


def test_arteries_and_veins_are_scored_both_ways(data, capsys) -> None:
    """The shipped bundle on a piece of a photograph; the masks are stripes, so the numbers mean nothing."""
    folder = data / "segmentation" / "eye"
    for name, picture in (("images", skimage.data.retina()[300:428, 500:628]),
                          ("masks/artery", np.tile(np.uint8(255) * (np.arange(128) < 40), (128, 1))),
                          ("masks/vein", np.tile(np.uint8(255) * (np.arange(128) > 90), (128, 1)))):
        (folder / name).mkdir(parents=True)
        Image.fromarray(picture).save(folder / name / "a.png")
    with (data / "segmentation.csv").open("a", newline="") as file:
        file.write("eye,val,cfp,segmentation/eye/images/a.png,128,128,artery vein\n")
    assert artery_vein.main(["--device", "cpu"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [["| eye", "artery", "1"], ["| eye", "vein", "1"]]
    assert artery_vein.main(["--bundle", "nowhere"]) == 1


def test_looks_are_compared_on_images_not_learnt_from(data, capsys) -> None:
    """The shipped bundle on the disc of a photograph, once and in all mirrorings."""
    folder = data / "segmentation" / "eye"
    disc = np.hypot(*(np.mgrid[:256, :256] - 128)) < 60
    for name in "ab":
        for kind, picture in (("images", skimage.data.retina()[500:756, 100:356]),
                              ("masks/optic_disc", disc.astype(np.uint8) * 255)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / kind / f"{name}.png")
    with (data / "segmentation.csv").open("a", newline="") as file:
        file.writelines(f"eye,train,cfp,segmentation/eye/images/{name}.png,256,256,optic_disc\n" for name in "ab")
    assert mirrored.main(["--device", "cpu", "--dataset", "eye", "--fold", "1/2"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert (row.split(" | ")[:2], cells["images"]) == (["| cfp", "optic_disc"], "1")
    assert float(cells["gain"]) == pytest.approx(float(cells["mirrored too"]) - float(cells["one look"]), abs=2e-3)
    assert mirrored.main(["--bundle", "nowhere"]) == 1


def test_thin_lines_are_lost_at_a_coarse_scale_and_discs_are_not() -> None:
    disc = np.hypot(*(np.mgrid[:256, :256] - 128)) < 60
    line = np.zeros((256, 256), bool)
    line[101:103] = True
    assert (limits.at_scale(disc, 128) >= 0.5).sum() == pytest.approx(disc.sum(), rel=0.03)
    assert (limits.at_scale(line, 512) >= 0.5).sum() == line.sum()
    assert (limits.at_scale(line, 64) >= 0.5).sum() == 0


def test_limits_tell_what_was_learnt_from_what_was_not(data, tiny_bundle, tmp_path, capsys) -> None:
    out = tmp_path / "limits.md"
    assert limits.main(["--bundle", str(tiny_bundle), "--device", "cpu", "--limit", "2", "--out", str(out)]) == 0
    head, _, *rows = out.read_text().splitlines()
    assert [c.strip() for c in head.strip("|").split("|")] == ["data set", "target", *limits.PARTS, limits.BEST,
                                                               limits.CEILING]
    assert rows and out.read_text() in capsys.readouterr().out
    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    assert any(val for _, _, _, _, val, _, _ in cells)
    for _, _, _, _, val, best, ceiling in cells:
        if val:
            assert float(val.split()[0]) <= float(best) and float(ceiling) > 0.9
    assert limits.main(["--bundle", "nowhere"]) == 1
    assert "benchmarks.limits" in capsys.readouterr().err


def test_contrast_is_that_to_the_surroundings() -> None:
    image, disc = np.full((200, 200, 3), 150, np.uint8), np.hypot(*(np.mgrid[:200, :200] - 100)) < 20
    image[disc] = 100
    inside = np.ones(disc.shape, bool)
    image[:5] = 0  # far from the target: counts for the spread alone
    spread = image[..., 1].std()
    assert annotations.contrast(image, disc, inside) == pytest.approx(50 / spread)
    assert annotations.contrast(255 - image, disc, inside) == pytest.approx(-50 / spread)
    assert np.isnan(annotations.contrast(image, inside, inside)), "nothing surrounds it"
    assert annotations.ellipse_dice(disc) > 0.97


def test_annotations_are_told_apart_by_part(data, tmp_path, capsys) -> None:
    out = tmp_path / "annotations.md"
    assert annotations.main(["--limit", "2", "--out", str(out)]) == 0
    head, _, *rows = out.read_text().splitlines()
    assert [c.strip() for c in head.strip("|").split("|")] == list(annotations.COLUMNS)
    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    assert {c[2] for c in cells} == set(limits.PARTS) and out.read_text() in capsys.readouterr().out
    for _, _, _, _, marked, darker, _ in cells:
        low, mean, high = (float(v) for v in marked.removesuffix(" %").split(" / "))
        assert 0 <= low <= mean <= high <= 100 and len(darker.split(" / ")) == 3
    assert annotations.main(["--dataset", "nowhere"]) == 1
    assert "there is no data set nowhere. There are: " in capsys.readouterr().err
