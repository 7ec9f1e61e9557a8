"""Training of the detector: matching, losses, boxes from masks, scores, and a few real steps."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import BertConfig, BertModel, BertTokenizerFast

pytest.importorskip("matplotlib")

from napari_claps.errors import InputError
from napari_claps.models.networks.detections import DetectorOutput, Proposals
from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector
from napari_claps.types import Modality
from training.choose.box_scores import BoxScores, auroc, average_precision
from training.data.detection_data import MAX_BOXES, MIN_AREA, Truth, compact_images, detection_batch, mask_boxes
from training.data.sampler import CachedImage, ViewBatch, ViewSampler
from training.losses.detection_loss import assign_cells, detection_loss, focal_loss, match, matching_cost
from training.run.run import Run
from training.stages import train_detector

CHANNELS = (8, 12, 16)
TINY = {"queries": 12, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 64}
SHAPES = [(8, 12), (4, 6), (2, 3)]


def random_truth(count: int, texts: int, seed: int = 0) -> Truth:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
    side = torch.rand(count, 2, generator=generator) * 0.3 + 0.05
    return Truth(torch.cat([centre, side], 1), torch.randint(texts, (count,), generator=generator))


def random_output(truths: list[Truth], texts: int, cells: int, asked: int, seed: int = 0) -> DetectorOutput:
    generator = torch.Generator().manual_seed(seed)
    batch, queries = len(truths), 9

    def leaf(*shape: int, box: bool = False) -> torch.Tensor:
        value = torch.randn(*shape, generator=generator)
        return (value.sigmoid() * 0.8 + 0.1 if box else value).requires_grad_()

    return DetectorOutput(
        leaf(batch, queries, texts), leaf(batch, queries, 4, box=True),
        (Proposals(leaf(batch, queries, texts), leaf(batch, queries, 4, box=True)),),
        leaf(batch, cells, texts), leaf(batch, asked, 4, box=True),
    )


@pytest.mark.parametrize(("queries", "objects"), [(4, 2), (3, 3), (2, 4), (5, 0)])
def test_matching_is_the_cheapest_of_all(queries, objects):
    truth = random_truth(objects, 3, seed=queries)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(queries, 3, generator=generator)
    boxes = torch.rand(queries, 4, generator=generator) * 0.5 + 0.2
    chosen, matched = match(logits, boxes, truth)
    assert len(set(chosen.tolist())) == len(set(matched.tolist())) == min(queries, objects)
    if not objects:
        return
    cost = matching_cost(logits, boxes, truth)
    count = min(queries, objects)
    best = min(
        sum(float(cost[q, o]) for q, o in zip(some, others, strict=True))
        for some in itertools.combinations(range(queries), count)
        for others in itertools.permutations(range(objects), count)
    )
    assert float(cost[chosen, matched].sum()) == pytest.approx(best, abs=1e-5)


def test_a_right_answer_costs_least():
    truth = Truth(torch.tensor([[0.3, 0.4, 0.2, 0.1]]), torch.tensor([1]))
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1], [0.7, 0.4, 0.2, 0.1]])
    logits = torch.tensor([[-5.0, 5.0], [5.0, -5.0], [-5.0, 5.0]])
    assert matching_cost(logits, boxes, truth)[:, 0].argmin() == 0


def test_each_object_has_a_cell_of_the_level_of_its_size():
    boxes = torch.tensor([[0.03, 0.03, 0.02, 0.02], [0.5, 0.5, 0.9, 0.9], [0.999, 0.999, 0.02, 0.02]])
    assignment = assign_cells([Truth(boxes, torch.zeros(3, dtype=torch.long)), random_truth(0, 1)], SHAPES)
    assert assignment.cells.shape[0] == 2 and set(assignment.image.tolist()) == {0}
    assert set(assignment.truth.tolist()) == {0, 1, 2}
    cells = assignment.cells[assignment.image, assignment.place]
    assert cells[assignment.truth == 0].tolist() == [0]
    assert cells[assignment.truth == 2].tolist() == [8 * 12 - 1]
    assert all(8 * 12 <= c < 8 * 12 + 4 * 6 + 2 * 3 for c in cells[assignment.truth == 1].tolist())


def test_focal_loss_against_its_formula():
    logits = torch.tensor([[[0.3, -1.2]]])
    positive = torch.tensor([[[1.0, 0.0]]])
    p = torch.sigmoid(logits[0, 0])
    expected = -0.25 * (1 - p[0]) ** 2 * p[0].log() - 0.75 * p[1] ** 2 * (1 - p[1]).log()
    torch.testing.assert_close(focal_loss(logits, positive, torch.ones(1, 2, dtype=torch.bool)), expected)


def test_an_unknown_target_changes_neither_loss_nor_gradients():
    truths = [random_truth(3, 2), random_truth(0, 2)]
    known = torch.tensor([[True, True, False], [True, False, False]])
    assignment = assign_cells(truths, SHAPES)
    output = random_output(truths, 3, 126, assignment.cells.shape[1])
    loss = sum(detection_loss(output, truths, known, assignment).values())
    loss.backward()
    for logits in (output.logits, output.cell_logits, output.aux[0].logits):
        assert logits.grad[0, :, 2].abs().max() == 0 and logits.grad[1, :, 1:].abs().max() == 0
        assert logits.grad[1, :, 0].abs().min() > 0, "annotated but absent is a negative"
    with torch.no_grad():
        for logits in (output.logits, output.cell_logits, output.aux[0].logits):
            logits[0, :, 2] = float("nan")
            logits[1, :, 1] = 1e4
    again = sum(detection_loss(output, truths, known, assignment).values())
    torch.testing.assert_close(again, loss)


def test_a_perfect_answer_has_nearly_no_loss():
    truth = random_truth(3, 2)
    assignment = assign_cells([truth], SHAPES)
    logits = torch.full((1, 5, 2), -20.0)
    logits[0, torch.arange(3), truth.text] = 20.0
    boxes = torch.cat([truth.boxes, torch.full((2, 4), 0.5)])[None]
    cell_logits = torch.full((1, 126, 2), -20.0)
    cell_logits[0, assignment.cells[0], truth.text[assignment.truth]] = 20.0
    output = DetectorOutput(logits, boxes, (), cell_logits, truth.boxes[assignment.truth][None])
    losses = detection_loss(output, [truth], torch.ones(1, 2, dtype=torch.bool), assignment)
    assert sum(losses.values()) < 1e-4


def test_a_batch_without_any_object_has_a_loss():
    truths = [random_truth(0, 2)]
    assignment = assign_cells(truths, SHAPES)
    output = random_output(truths, 2, 126, 0)
    losses = detection_loss(output, truths, torch.ones(1, 2, dtype=torch.bool), assignment)
    assert all(torch.isfinite(v) for v in losses.values()) and losses["class"] > 0 and losses["l1"] == 0


def test_boxes_of_a_mask():
    mask = np.zeros((40, 80), bool)
    mask[4:10, 8:24] = True
    mask[30, 60] = True  # a speck
    mask[30:34, 40:43] = True
    mask[34:38, 43:46] = True  # touches it at a corner
    boxes = mask_boxes(mask)
    np.testing.assert_allclose(boxes, [[16 / 80, 7 / 40, 16 / 80, 6 / 40], [43 / 80, 34 / 40, 6 / 80, 8 / 40]])
    assert mask_boxes(np.zeros((8, 8), bool)).shape == (0, 4)


def test_the_largest_objects_are_kept():
    mask = np.zeros((300, 300), bool)
    for i in range(60):
        y, x = 5 + 28 * (i // 10), 5 + 28 * (i % 10)
        mask[y:y + 3, x:x + 3 + i % 20] = True
    boxes = mask_boxes(mask)
    assert len(boxes) == MAX_BOXES and boxes[:, 2].min() * 300 >= 9


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (24, 32)))
def test_boxes_hold_all_large_objects(mask):
    covered = np.zeros_like(mask)
    for cx, cy, width, height in mask_boxes(mask) * [32, 24, 32, 24]:
        x0, y0 = round(cx - width / 2), round(cy - height / 2)
        x1, y1 = round(cx + width / 2), round(cy + height / 2)
        assert 0 <= x0 < x1 <= 32 and 0 <= y0 < y1 <= 24
        assert mask[y0:y1, x0:x1].any(1)[[0, -1]].all(), "a box touches its object"
        covered[y0:y1, x0:x1] = True
    if mask.sum() >= MIN_AREA * 60:
        assert covered.any()


def cached(modality: Modality, masks: dict[str, np.ndarray], targets: tuple[str, ...], seed: int = 0) -> CachedImage:
    image = np.random.default_rng(seed).integers(0, 90, (96, 160, 3)).astype(np.uint8)
    for mask in masks.values():
        image[mask > 0] = 230
    return CachedImage("made", modality, image, masks, targets)


def blob(y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:96, :160]
    return (((rows - y) ** 2 + (columns - x) ** 2) < radius**2).astype(np.uint8) * 255


def test_trees_and_bands_are_not_asked_for():
    both = cached(Modality.OCT, {"retina": blob(48, 80, 30), "drusen": blob(48, 80, 9)}, ("retina", "drusen"))
    tree = cached(Modality.CFP, {"vessel": blob(48, 80, 9)}, ("vessel",))
    kept = compact_images([both, tree])
    assert len(kept) == 1 and kept[0].targets == ("drusen",) and list(kept[0].masks) == ["drusen"]
    with pytest.raises(InputError, match="nothing to learn"):
        compact_images([tree])


def test_a_batch_knows_what_was_annotated_in_each_view():
    masks = torch.zeros(3, 32, 32)
    masks[0, 4:12, 4:20] = 1
    batch = detection_batch(ViewBatch(
        torch.zeros(2, 3, 32, 32), (Modality.CFP, Modality.FFA),
        ((0, "optic_disc"), (0, "optic_cup"), (1, "brvo_area")), masks))
    assert batch.classes == ((Modality.CFP, "optic_disc"), (Modality.CFP, "optic_cup"), (Modality.FFA, "brvo_area"))
    assert batch.known.tolist() == [[True, True, False], [False, False, True]]
    torch.testing.assert_close(batch.truths[0].boxes, torch.tensor([[12 / 32, 8 / 32, 16 / 32, 8 / 32]]))
    assert batch.truths[0].text.tolist() == [0] and len(batch.truths[1].boxes) == 0


def test_scores_of_boxes():
    scores = BoxScores()
    truth = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 30, 30]])
    found = torch.tensor([[0.0, 0, 10, 9], [0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    scores.add(found, torch.tensor([0.9, 0.8, 0.3]), truth)
    scores.add(found[:1], torch.tensor([0.5]), truth[:0])
    report = scores.summary()
    assert report["objects"] == 2 and report["views_present"] == report["views_absent"] == 1
    assert scores.hits == [True, False, False, False], "an object is found once"
    assert report["ap50"] == pytest.approx(0.5) and report["threshold"] == pytest.approx(0.9)
    assert report["recall"] == 0.5 and report["precision"] == 1.0
    assert report["false_positive_rate"] == 0.0 and report["presence_auroc"] == 1.0


def test_scores_without_objects_are_unknown():
    scores = BoxScores()
    scores.add(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 4))
    assert scores.summary()["ap50"] is None and scores.summary()["presence_auroc"] is None


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_average_precision_is_a_share(hits):
    found = np.cumsum(hits)
    value = average_precision(found / np.arange(1, len(hits) + 1), found / max(sum(hits), 1))
    assert 0 <= value <= 1 and (value == pytest.approx(1)) == (any(hits) and all(hits[:sum(hits)]))


def test_auroc_counts_ties_half():
    assert auroc([0.5, 0.9], [0.5, 0.1]) == pytest.approx(3.5 / 4)
    assert auroc([], [1.0]) is None


class _Clip(torch.nn.Module):
    """A small trunk with the interface of the CLIP model that this stage uses."""

    def __init__(self, text_folder: Path) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.tokenizer = BertTokenizerFast(vocab_file=str(text_folder / "vocab.txt"))
        self.text_transformer = BertModel(BertConfig(
            vocab_size=len(self.tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32), add_pooling_layer=False)
        self.channels = (4, 4, *CHANNELS)
        self.convolution = torch.nn.Conv2d(3, 16, 3, padding=1)

    def encode_image(self, views: torch.Tensor) -> object:
        full = self.convolution(views).relu()
        levels = [torch.nn.functional.avg_pool2d(full, s)[:, :c]
                  for s, c in zip((2, 4, 8, 16, 32), self.channels, strict=True)]
        return type("Features", (), {"levels": tuple(levels)})


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    from napari_claps.words.vocabulary import MODALITIES, TARGETS

    words = sorted({w for t in TARGETS.values() for w in f"{t.name} {t.description}".lower().split()}
                   | {w for m in MODALITIES.values() for w in m.signature.lower().split()} | {"-", "'", "showing"})
    folder = tmp_path / "init" / "text"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]))
    return folder


@pytest.fixture
def images() -> list[CachedImage]:
    return [cached(Modality.OCT, {"drusen": blob(50, 40 + 8 * i, 11)} if i % 2 else {}, ("drusen", "shrm"), i)
            for i in range(6)]


def settings_of(steps: int) -> dict:
    return {"seed": 0, "batch": 3, "steps": steps, "lr": 2e-3, "weight_decay": 1e-4, "average": 0.9, "oct_share": 1.0,
            "synthetic": 0, "max_prompts": 3, "save_every": 2, "weights": {},
            "views": {"oct": [64, 96], "en_face": [64, 64]}, "detector": TINY}


def make_sampler(images: list[CachedImage], config: dict) -> ViewSampler:
    return ViewSampler(compact_images(images), weights={}, views=config["views"], oct_share=1.0, max_prompts=3)


def test_the_loss_falls(text_folder, images):
    clip = _Clip(text_folder).eval().requires_grad_(False)
    detector = train_detector.build_detector(clip, TINY).train()
    assert isinstance(detector, RetinalDetector) and detector.config == DetectorConfig(CHANNELS, **TINY)
    sampler = make_sampler(images, settings_of(1))
    optimizer = torch.optim.AdamW(detector.head_parameters(), 1e-3)
    history = []
    for _ in range(25):
        torch.manual_seed(0)
        losses = train_detector.batch_losses(clip, detector, sampler, 3, random.Random(0))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert {"class", "l1", "giou", "aux0_class", "encoder_class"} <= set(losses)
    assert np.mean(history[-3:]) < 0.6 * history[0]
    assert all(p.grad is None for p in clip.parameters())


def test_a_resumed_run_gives_the_same_numbers(monkeypatch, tmp_path, text_folder, images):
    monkeypatch.setattr(train_detector, "load_clip", lambda path: (_Clip(text_folder), {"arch": {"clip": {}}}))
    monkeypatch.setattr(train_detector, "make_sampler", lambda config, run: make_sampler(images, config))
    monkeypatch.setattr(train_detector, "held_out_boxed", lambda config: compact_images(images))
    init = text_folder.parent / "final.pt"
    draw = Run.draw_curves
    monkeypatch.setattr(Run, "draw_curves", lambda run: None)  # once is enough
    whole = train_detector.train(settings_of(4), tmp_path / "whole", init)

    killed = tmp_path / "killed"
    real = train_detector.batch_losses
    calls = itertools.count()

    def stops(*arguments: object, **named: object) -> dict:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(train_detector, "batch_losses", stops)
    with pytest.raises(KeyboardInterrupt):
        train_detector.train(settings_of(4), killed, init)
    assert (killed / "last.pt").exists() and not (killed / "final.pt").exists()
    monkeypatch.setattr(train_detector, "batch_losses", real)
    monkeypatch.setattr(Run, "draw_curves", draw)
    resumed = train_detector.train(settings_of(4), killed, init)

    first, second = (torch.load(p, weights_only=True) for p in (whole, resumed))
    assert first["arch"]["detector"]["queries"] == 12
    for name, value in first["detector"].items():
        torch.testing.assert_close(second["detector"][name], value, atol=1e-6, rtol=1e-5)
    report = json.loads((killed / "detector.json").read_text())
    assert report["oct/drusen"]["views_present"] == 3 and report["oct/shrm"]["ap50"] is None
    assert (killed / "curves.png").exists() and (killed / "text" / "vocab.txt").exists()
    assert not list(killed.glob("*.part"))


def test_the_shipped_configuration_is_complete():
    from training.run.config import load_config

    config = load_config(Path(train_detector.__file__).parents[1] / "configs" / "detector.toml")
    assert settings_of(1).keys() <= config.keys()
    DetectorConfig(**config["detector"])
