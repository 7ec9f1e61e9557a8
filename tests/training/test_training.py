"""Every stage of the training runs for a few steps on made-up images; the loss falls, and resuming changes nothing."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from napari_claps.errors import InputError
from napari_claps.types import Modality
from tests.training_data import CONFIG, write_clip, write_data
from training.data.augment import augment_photometry
from training.data.borrowed import lend, lent_records
from training.data.captions import caption, parse_labels
from training.data.records import is_held_out, read_mask, segmentation_records
from training.data.sampler import CachedImage, ViewBatch, ViewSampler
from training.losses.contrastive import contrastive_loss
from training.losses.mask_loss import contrast_loss, mask_loss
from training.run.checkpoint import load_checkpoint
from training.stages.encoder import load_clip
from training.stages.start import replace_start
from training.stages.train_segmenter import train


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the form of the real one, with synthetic B-scans."""
    root = write_data(tmp_path / "data")
    monkeypatch.setenv("CLAPS_DATA", str(root))
    return root


@pytest.fixture
def clip_checkpoint(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_segmenter_learns(data: Path, clip_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same views again and again, so that the loss does not hang on which ones were drawn."""
    draw, kept = ViewSampler.batch, []

    def same(self: ViewSampler, size: int, rng: random.Random) -> ViewBatch:
        kept.extend([draw(self, 4, rng)] if not kept else [])
        return kept[0]

    monkeypatch.setattr(ViewSampler, "batch", same)
    train({**CONFIG, "steps": 8, "save_every": 8, "spatial_share": 0.0}, tmp_path / "a", clip_checkpoint)
    rows = losses(tmp_path / "a")
    assert np.mean(rows[-2:]) < 0.9 * np.mean(rows[:2])


@pytest.mark.parametrize(("only", "learnt"), [
    ("wordless", {"prompt_encoder.no_text", "prompt_encoder.no_text_weights"}),
    ("presence", {f"mask_decoder.presence_head.layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")}),
])
def test_a_part_is_learnt_alone(data: Path, clip_checkpoint: Path, tmp_path: Path, only: str, learnt: set[str]) -> None:
    first = load_checkpoint(train({**CONFIG, "steps": 1}, tmp_path / "a", clip_checkpoint))
    alone = {**CONFIG, "steps": 2, "frozen_blocks": 99, "only": only, "wordless_share": 1.0,
             "spatial_share": 1.0 if only == "wordless" else 0.0}
    then = load_checkpoint(train(alone, tmp_path / "b", tmp_path / "a" / "final.pt", tmp_path / "a" / "final.pt"))
    changed = {k for k, v in then["segmenter"].items() if not torch.allclose(v, first["segmenter"][k], atol=1e-7)}
    assert changed == learnt
    assert all(torch.equal(v, first["clip"][k]) for k, v in then["clip"].items())
    with pytest.raises(InputError, match="only = 'boxes' is unknown. Known are: wordless, presence"):
        train({**alone, "only": "boxes"}, tmp_path / "c", tmp_path / "a" / "final.pt")


def test_a_modality_is_lent_photographs_in_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    folder = root / "segmentation" / "hrf"
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[:20, :, 2] = 200, 100, 255
    for name, picture in {"images": colours, "masks/vessel": np.full((40, 60), 255, np.uint8)}.items():
        (folder / name).mkdir(parents=True)
        Image.fromarray(picture).save(folder / name / "03_h.png")
    (root / "segmentation.csv").write_text(
        "dataset,split,modality,image,width,height,targets\n"
        "hrf,train,cfp,segmentation/hrf/images/03_h.png,60,40,vessel\n")
    monkeypatch.setenv("CLAPS_DATA", str(root))
    assert not is_held_out("hrf", "03_h") and lent_records({}) == []
    copies = lend(lent_records({"lent": {"slo": ["hrf"]}}))
    assert [int(c.image.mean()) for c in copies] == [180, 140], "the blue channel shows no vessels"
    for copy_ in copies:
        assert copy_.modality is Modality.SLO and copy_.image.shape[2] == 3
        assert copy_.targets == ("vessel",) == tuple(copy_.masks), "no lesions of healthy eyes in infrared"
    with pytest.raises(InputError, match="the data set drive, named in the configuration"):
        lent_records({"lent": {"slo": ["drive"]}})
    with pytest.raises(InputError, match=r"\[lent\] infrared: no modality of that name. There are: cfp, uwf, slo"):
        lent_records({"lent": {"infrared": ["hrf"]}})
    with pytest.raises(InputError, match="no image to learn from is left"):
        lent_records({"lent": {"slo": ["hrf"]}, "exclude": ["hrf"]})


def test_a_modality_learns_a_pixel_decoder_of_its_own(data: Path, clip_checkpoint: Path, tmp_path: Path) -> None:
    """It starts as the shared one, which stays; one of another modality that an earlier run learnt stays too."""
    first = train({**CONFIG, "steps": 1}, tmp_path / "a", clip_checkpoint)
    shared, own = "image_encoder.pixel_decoder.", "image_encoder.own_pixel_decoders."
    alone = {**CONFIG, "steps": 2, "frozen_blocks": 99, "only": "oct pixels",
             "segmenter": {**CONFIG["segmenter"], "own_pixels": ["octa", "oct"]}}
    old = load_checkpoint(first)
    old["segmenter"] |= {k.replace(shared, own + "octa."): v + 1 for k, v in old["segmenter"].items() if shared in k}
    old["segmenter"]["prompt_encoder.text_mean"] += 1  # of another vocabulary: what is learnt alone keeps it
    torch.save(old, tmp_path / "octa.pt")
    then = load_checkpoint(train(alone, tmp_path / "b", first, tmp_path / "octa.pt"))
    assert then["arch"]["segmenter"]["own_pixels"] == ("octa", "oct")
    fresh = {k: v for k, v in then["segmenter"].items() if k.startswith(own + "oct.")}
    assert {k: v for k, v in then["segmenter"].items() if k not in fresh}.keys() == old["segmenter"].keys()
    assert all(torch.equal(then["segmenter"][k], v) for k, v in old["segmenter"].items())
    moved = [(v - then["segmenter"][k.replace(own + "oct.", shared)]).abs().max() for k, v in fresh.items()]
    assert 0 < max(moved) < 0.1
    late = {**alone, "segmenter": {**CONFIG["segmenter"], "own_pixels": ["oct"]}, "steps": 1}
    kept = load_checkpoint(train(late, tmp_path / "e", first, tmp_path / "b" / "final.pt"))
    assert set(kept["arch"]["segmenter"]["own_pixels"]) == {"octa", "oct"}, "what was learnt before is not lost"
    assert all(torch.equal(v, then["segmenter"][k]) for k, v in kept["segmenter"].items() if own + "octa." in k)
    lent = load_checkpoint(train({**alone, "steps": 1, "lr": 1e-9, "pixels_from": "octa"}, tmp_path / "d", first,
                                 tmp_path / "octa.pt"))["segmenter"]
    assert all(torch.allclose(lent[k], lent[k.replace(own + "oct.", own + "octa.")], atol=1e-6) for k in fresh)
    with pytest.raises(InputError, match=r"pixels_from = 'uwf': both need .* of its own. There are: octa, oct\."):
        train({**alone, "pixels_from": "uwf"}, tmp_path / "c", first, first)
    with pytest.raises(InputError, match=r"only = 'oct pixels': this mask head has no such part.*own_pixels"):
        train({**alone, "segmenter": CONFIG["segmenter"]}, tmp_path / "c", first, first)


def test_a_modality_learns_early_blocks_of_its_own(data: Path, clip_checkpoint: Path, tmp_path: Path) -> None:
    """They start as the shared ones, which stay, and are learnt with the pixel decoder that reads them."""
    first = train({**CONFIG, "steps": 1}, tmp_path / "a", clip_checkpoint)
    own = {**CONFIG["segmenter"], "own_pixels": ["oct"], "own_trunks": ["oct"]}
    alone = {**CONFIG, "steps": 2, "frozen_blocks": 99, "only": "oct trunk", "segmenter": own}
    then = load_checkpoint(train(alone, tmp_path / "b", first, first))
    start, trunk = load_checkpoint(first), "image_encoder.own_trunks.oct."
    assert all(torch.equal(then["clip"][k], v) for k, v in start["clip"].items())
    assert all(torch.equal(then["segmenter"][k], v) for k, v in start["segmenter"].items())
    mine = {k: (v, start["clip"]["model.visual.trunk." + k.removeprefix(trunk)])
            for k, v in then["segmenter"].items() if k.startswith(trunk)}
    assert any("bn1.weight" in k for k in mine)
    for name, (after, before) in mine.items():
        if any(part in name for part in ("running_", "num_batches")):
            assert torch.equal(after, before), "the statistics of batch normalisation stay"
    assert 0 < max((after - before).abs().max() for after, before in mine.values()) < 0.1
    assert any("own_pixel_decoders.oct." in k for k in then["segmenter"])
    late = {**alone, "only": "oct pixels", "segmenter": {**own, "own_trunks": []}, "steps": 1}
    kept = load_checkpoint(train(late, tmp_path / "c", first, tmp_path / "b" / "final.pt"))
    assert kept["arch"]["segmenter"]["own_trunks"] == ("oct",), "what was learnt before is not lost"
    assert all(torch.equal(kept["segmenter"][k], after) for k, (after, _) in mine.items())
    with pytest.raises(InputError, match=r"only = 'oct trunk': .* no such part.*own_trunks too"):
        train({**alone, "segmenter": {**own, "own_trunks": []}}, tmp_path / "d", first, first)
    with pytest.raises(InputError, match=r"own_trunks: slo has no pixel decoder of its own"):
        train({**alone, "segmenter": {**own, "own_trunks": ["slo"]}}, tmp_path / "e", first, first)


def test_segmenter_resumes(data: Path, clip_checkpoint: Path, tmp_path: Path) -> None:
    whole = {**CONFIG, "steps": 8, "save_every": 4}
    path = train(whole, tmp_path / "a", clip_checkpoint)
    rows = losses(tmp_path / "a")
    assert {"arch", "clip", "segmenter"} <= set(load_checkpoint(path))
    assert (tmp_path / "a" / "curves.png").stat().st_size > 1000

    class Stop(Exception):
        pass

    import training.stages.train_segmenter as stage

    real = stage.Run.is_due

    def die(self, step, every, last):  # a run that is killed right after its first checkpoint
        if step == 4:
            raise Stop
        return real(self, step, every, last)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(stage.Run, "is_due", die)
        train(whole, tmp_path / "b", clip_checkpoint)
    train(whole, tmp_path / "b", clip_checkpoint)
    assert np.allclose(losses(tmp_path / "b")[-4:], rows[-4:], rtol=1e-3)


def test_checkpoint_of_another_architecture_is_refused(data: Path, clip_checkpoint: Path, tmp_path: Path) -> None:
    train({**CONFIG, "steps": 1}, tmp_path / "a", clip_checkpoint)
    other = {**CONFIG, "steps": 1, "segmenter": {**CONFIG["segmenter"], "mlp": 48}}
    with pytest.raises(InputError, match=r"last\.pt: belongs to another architecture.*another --out"):
        train(other, tmp_path / "a", clip_checkpoint)


def test_absent_targets_do_not_enter_the_dice_loss() -> None:
    from napari_claps.models.networks.segmenter import MaskPrediction

    prediction = MaskPrediction(torch.zeros(2, 8, 8, requires_grad=True), torch.zeros(2), torch.zeros(2))
    masks = torch.zeros(2, 16, 16)
    masks[0, :8] = 1
    both, alone = mask_loss(prediction, masks), mask_loss(
        MaskPrediction(prediction.logits[:1], prediction.iou[:1], prediction.presence[:1]), masks[:1])
    assert torch.allclose(both["dice"], alone["dice"])


def test_contrast_asks_for_the_difference_between_targets_of_one_view() -> None:
    """Two targets with the mask of both together are no better than chance; their own masks are right."""
    masks = torch.zeros(3, 32, 32)
    masks[0, :16, :16] = masks[1, 16:, 16:] = masks[2, :8] = 1
    half = F.avg_pool2d(masks, 2)
    same_view, apart = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    both = torch.stack([half[0] + half[1], half[0] + half[1], half[2]]) * 12 - 6
    right = half * 12 - 6
    assert contrast_loss(both, masks, same_view).item() == pytest.approx(np.log(2))
    assert contrast_loss(right, masks, same_view) < 0.01
    wrong = right.clone()
    wrong[:2] = right[:2].flip(0)
    assert contrast_loss(wrong, masks, same_view) > 5
    assert contrast_loss(wrong, masks, apart) == 0  # nothing to compare with
    nested = torch.zeros(2, 32, 32)
    nested[0, :24], nested[1, :8] = 1, 1
    logits = (F.avg_pool2d(nested, 2) * 12 - 6).requires_grad_()
    contrast_loss(logits, nested, torch.tensor([0, 0])).backward()
    assert not logits.grad[:, :4].any()  # where both are true there is no choice
    assert logits.grad[:, 4:12].all()


def test_an_encoder_can_start_from_less(clip_checkpoint: Path) -> None:
    clip, _ = load_clip(clip_checkpoint)
    before = copy.deepcopy(clip.state_dict())

    def changed() -> set[str]:
        return {k.split(".")[2] for k, v in clip.state_dict().items() if not torch.equal(v, before[k])}

    replace_start(clip, "stage")
    assert not changed()
    replace_start(clip, "random-text")
    assert changed() == {"transformer"}
    replace_start(clip, "random")
    assert changed() == {"transformer", "trunk"}
    with pytest.raises(InputError, match=r"start = 'zero' is unknown. Known are: stage, imagenet, random, random-text"):
        replace_start(clip, "zero")


def test_views_are_drawn_by_data_set_and_kind_of_target() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    images = [CachedImage("made", Modality.CFP, image, {}, (target,)) for target in ("optic_disc", "hard_exudate")]
    sampler = ViewSampler(images, weights={"made": 1.0, "made.object": 0.0}, views={"en_face": (32, 32)}, oct_share=0.0)
    batch = sampler.batch(20, random.Random(0))
    assert {target for _, target in batch.prompts} == {"hard_exudate"}


def test_views_are_cut_with_their_masks_and_keep_their_size_without_augmentation() -> None:
    """The image is a ramp along x and the mask its upper half, so that each pixel of a view tells where it is from."""
    ramp = np.tile(np.linspace(20, 250, 240), (200, 1))
    image = CachedImage("made", Modality.CFP, np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8),
                        {"vessel": np.where(ramp > 135, 255, 0).astype(np.uint8)}, ("vessel",))
    rng = random.Random(0)
    for augmentation in (1.0, 0.0):
        sampler = ViewSampler([image], weights={}, views={"en_face": (48, 64)}, oct_share=0.0,
                              augmentation=augmentation)
        for _ in range(20):
            stack, names = sampler._cut(image, "vessel", (48, 64), rng)
            seen, mask = stack[0] * 255, stack[3]
            assert names == ["vessel"] and stack.shape == (4, 48, 64)
            outside = torch.nn.functional.max_pool2d((seen < 19).float()[None], 5, stride=1, padding=2)[0] > 0
            outside[0] = outside[-1] = outside[:, 0] = outside[:, -1] = True  # what lies beyond may be the image's end
            assert (mask[(seen > 139) & ~outside] > 0.9).all() and (mask[(seen < 131) & ~outside] < 0.1).all()
            if augmentation == 0:
                inner = seen[1:-1, 1:-1]
                slope = torch.stack(torch.gradient(seen))[:, 1:-1, 1:-1].norm(dim=0)[inner > 20]
                assert slope.median() == pytest.approx(230 / 239, rel=0.1)
    views = torch.rand(3, 3, 16, 16)
    assert torch.allclose(augment_photometry(views, rng, 0.0), views, atol=1e-3)
    assert not torch.allclose(augment_photometry(views, rng), views, atol=1e-2)


def test_some_views_have_paler_vessels_on_the_same_background() -> None:
    """By more than the contrast of the whole view changes: other devices show paler vessels on as uneven a fundus."""
    across = torch.linspace(0.3, 0.7, 96).expand(3, 96, 96).clone()
    across[:, :, 45:48] -= 0.1
    seen = []
    for seed in range(60):
        torch.manual_seed(seed)
        view = augment_photometry(across[None], random.Random(seed), 1.0)[0].mean((0, 1))
        seen.append(float((view[40] + view[52] - 2 * view[46]) / (view[84] - view[12])))
    assert 0 < np.percentile(seen, 10) < 0.7 * np.median(seen)


def test_healthy_eyes_are_annotated_as_free_of_lesions(data: Path) -> None:
    """HRF says which of its eyes are healthy; of the others, and of other data sets, nothing is known."""
    folder = data / "segmentation" / "hrf" / "images"
    folder.mkdir(parents=True)
    with (data / "segmentation.csv").open("a", newline="") as file:
        for stem in ("01_h", "01_dr"):
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / f"{stem}.png")
            file.write(f"hrf,train,cfp,segmentation/hrf/images/{stem}.png,64,64,vessel\n")
    healthy, ill = segmentation_records("train", datasets=("hrf",))
    assert healthy.targets == ("vessel", "microaneurysm", "haemorrhage", "hard_exudate", "soft_exudate")
    assert ill.targets == ("vessel",) and not healthy.masks


def test_unlisted_targets_are_unknown_and_missing_masks_absent(data: Path) -> None:
    records = segmentation_records("train")
    assert all(r.targets == ("drusen", "intraretinal_fluid") for r in records)
    held = [r for r in records if is_held_out(r.dataset, r.stem)]
    assert len(segmentation_records("train", held_out=False)) + len(held) == len(records)


def test_bad_data_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image of split 'val'"):
        segmentation_records("val")
    with pytest.raises(InputError, match="the mask has .* pixels, its image"):
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "m.png")
        read_mask(tmp_path / "m.png", (9, 9))
    next((data / "segmentation" / "made" / "images").glob("*.png")).unlink()
    with pytest.raises(InputError, match="is missing"):
        segmentation_records("train")
    monkeypatch.setenv("CLAPS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"there is no segmentation\.csv"):
        segmentation_records("train")
    monkeypatch.delenv("CLAPS_DATA")
    with pytest.raises(InputError, match="CLAPS_DATA is not set"):
        segmentation_records("train")


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"x\.pt: cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


def test_labels_know_true_false_and_unknown() -> None:
    labels = parse_labels("cfp", "dr_grade=3 dme_risk=0")
    assert labels.relation(("cfp", "dr3")) == 1 and labels.relation(("cfp", "dr")) == 1
    assert labels.relation(("cfp", "dr0")) == 0 and labels.relation(("cfp", "dme")) == 0
    assert labels.relation(("cfp", "vessel")) == -1 and labels.relation(("oct", "")) == 0
    assert "fundus" in caption((Modality.CFP, "dr3"), random.Random(0))


def test_contrastive_loss_of_perfect_pairs_is_small_and_unknown_pairs_do_not_count() -> None:
    unit = torch.eye(4)
    relation = torch.eye(4).long()
    good = contrastive_loss(unit, unit, relation, torch.tensor(50.0))
    bad = contrastive_loss(unit, unit.roll(1, 0), relation, torch.tensor(50.0))
    assert good < 1e-3 < bad
    masked = relation.clone()
    masked[0, 1] = -1
    swapped = unit.clone()
    swapped[1] = unit[0]  # text 1 looks like image 0, for which it is unknown
    known = contrastive_loss(unit, swapped, relation, torch.tensor(50.0))
    unknown = contrastive_loss(unit, swapped, masked, torch.tensor(50.0))
    assert unknown < known
