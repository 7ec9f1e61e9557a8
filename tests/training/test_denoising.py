"""Noised true boxes as further queries: what they are, that nobody else sees them, and that they help to learn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from napari_claps.models.networks.detector import DetectorConfig
from tests.training.test_train_detector import (
    CHANNELS,
    TINY,
    _Clip,
    images,
    make_sampler,
    random_truth,
    settings_of,
    text_folder,
)
from training.data.detection_data import Truth
from training.losses.denoising import FAR, NEAR, denoising_loss, extra_queries, noised_boxes, split
from training.stages import train_detector

__all__ = ["images", "text_folder"]  # fixtures


def test_noise_has_the_asked_size_and_groups() -> None:
    torch.manual_seed(0)
    truths, known = [random_truth(3, 2), random_truth(1, 1, seed=1)], torch.tensor([[True, True], [True, False]])
    noised = noised_boxes(truths, known, 4)
    assert noised.boxes.shape == (2, 4 * 2 * 3, 4) and noised.group.tolist() == sorted([0, 1, 2, 3] * 6)
    assert (noised.truth[1] >= 0).sum() == 8 and set(noised.truth[0].tolist()) == {0, 1, 2}
    shift = (noised.boxes[0, :, :2] - truths[0].boxes[noised.truth[0], :2]).abs() \
        / (truths[0].boxes[noised.truth[0], 2:] / 2)
    near = noised.near[0]
    assert shift[near].max() <= NEAR + 1e-4 and shift[~near].min() >= NEAR - 1e-4 and shift.max() <= FAR + 1e-4
    assert set(noised.text[1].tolist()) == {0}, "only what is known in the image is shown"
    assert noised_boxes([random_truth(0, 2)], known[:1], 4) is None


@pytest.fixture
def detector(text_folder):
    torch.manual_seed(0)
    return train_detector.build_detector(_Clip(text_folder), TINY).eval()


def test_ordinary_queries_do_not_see_the_truth(detector) -> None:
    features = [torch.rand(2, c, 32 // s, 48 // s) for c, s in zip(CHANNELS, (4, 8, 16), strict=True)]
    text, known = detector.encode_text(["drusen", "fluid"]), torch.ones(2, 2, dtype=torch.bool)
    truths = [random_truth(3, 2), random_truth(1, 2, seed=1)]
    with torch.no_grad():
        plain = detector(features, text, known)
        noised = noised_boxes(truths, known, 3)
        with extra_queries(detector, text, noised):
            both = detector(features, text, known)
        again = detector(features, text, known)
    ours, rest = split(both, noised.boxes.shape[1])
    for first, second in ((plain, ours), (plain, again)):
        torch.testing.assert_close(first.logits, second.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(first.aux[0].boxes, second.aux[0].boxes, atol=1e-5, rtol=1e-4)
    assert len(rest) == DetectorConfig(CHANNELS, **TINY).decoder_layers and rest[0].logits.shape == (2, 18, 2)
    # A group changes nothing in another one.
    moved = noised.boxes.clone()
    moved[:, noised.group == 0] = 0.3
    with torch.no_grad(), extra_queries(detector, text, type(noised)(moved, noised.text, noised.truth, noised.near,
                                                                     noised.group)):
        _, changed = split(detector(features, text, known), 18)
    other = noised.group > 0
    torch.testing.assert_close(changed[0].boxes[:, other], rest[0].boxes[:, other], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(changed[0].boxes[:, ~other], rest[0].boxes[:, ~other], atol=1e-3)


def test_a_right_answer_has_no_loss_and_fillers_cost_nothing() -> None:
    torch.manual_seed(0)
    truths = [random_truth(2, 2), Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]
    known = torch.ones(2, 2, dtype=torch.bool)
    noised = noised_boxes(truths, known, 2)
    logits, boxes = torch.full((2, 8, 2), -20.0), torch.full((2, 8, 4), 0.5)
    logits[1] = 20.0  # the image without objects has only fillers
    for query in range(8):
        if noised.near[0, query]:
            boxes[0, query] = truths[0].boxes[noised.truth[0, query]]
            logits[0, query, truths[0].text[noised.truth[0, query]]] = 20.0
    layer = type("P", (), {"logits": logits, "boxes": boxes})
    losses = denoising_loss([layer], noised, truths, known)
    assert set(losses) == {"denoising0_class", "denoising0_l1", "denoising0_giou"} and sum(losses.values()) < 1e-4
    logits[0, ~noised.near[0]] = 5.0
    assert denoising_loss([layer], noised, truths, known)["denoising0_class"] > 1, "far queries shall say nothing"


def test_training_with_noised_queries_learns(text_folder, images) -> None:
    clip = _Clip(text_folder).eval().requires_grad_(False)
    detector = train_detector.build_detector(clip, TINY).train()
    sampler = make_sampler(images, settings_of(1))
    optimizer = torch.optim.AdamW(detector.head_parameters(), 1e-3)
    history = []
    for _ in range(15):
        torch.manual_seed(0)
        losses = train_detector.batch_losses(clip, detector, sampler, 3, random.Random(0), denoising=2)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([loss.item(), losses["denoising0_l1"].item()])
    assert {"class", "encoder_class", "denoising0_giou", "denoising1_l1"} <= set(losses)
    first, last = np.mean(history[:3], axis=0), np.mean(history[-3:], axis=0)
    assert last[0] < 0.8 * first[0] and last[1] < first[1]
