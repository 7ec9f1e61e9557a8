"""The hard-negative loss against its formula written out with loops, and as an option of the pre-training."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_claps.errors import InputError
from napari_claps.models.networks.clip import ClipConfig, RetinalClip
from tests.tiny_bundle import write_text_folder
from training.data.captions import parse_labels
from training.losses.contrastive import contrastive_loss
from training.losses.dhn_nce import dhn_nce_loss
from training.stages.pretrain_clip import Example, batch_loss, choose_loss, fix_temperature


def unit(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=-1)


def written_out(images, texts, temperature: float, beta_image: float, beta_text: float, negatives=None) -> float:
    """The formula, term by term, in Python floats."""
    cosine = (images @ texts.T).tolist()
    count = len(cosine)
    total = 0.0
    for table, beta, allowed in (
            (cosine, beta_image, lambda i, j: negatives is None or bool(negatives[i][j])),
            ([list(column) for column in zip(*cosine, strict=True)], beta_text,
             lambda i, j: negatives is None or bool(negatives[j][i]))):
        for i in range(count):
            others = [j for j in range(count) if j != i and allowed(i, j)]
            if not others:
                continue
            below = sum(math.exp(beta * table[i][k] / temperature) for k in others)
            weighted = 0.0
            for j in others:
                weight = len(others) * math.exp(beta * table[i][j] / temperature) / below
                weighted += weight * math.exp(table[i][j] / temperature)
            total += -table[i][i] / temperature + math.log(weighted)
    return total


@pytest.mark.parametrize("temperature", [0.05, 0.6, 2.0])
@pytest.mark.parametrize(("beta_image", "beta_text"), [(0.0, 0.0), (0.15, 0.15), (0.5, 0.1), (2.0, 1.0)])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_loss_is_the_formula(temperature: float, beta_image: float, beta_text: float, count: int) -> None:
    images, texts = unit(count, 1), unit(count, 2)
    loss = dhn_nce_loss(images, texts, temperature=temperature, beta_image=beta_image, beta_text=beta_text)
    expected = written_out(images, texts, temperature, beta_image, beta_text)
    assert float(loss) == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_known_negatives_only() -> None:
    images, texts = unit(4, 3), unit(4, 4)
    negatives = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0]], dtype=torch.bool)
    loss = dhn_nce_loss(images, texts, beta_text=0.4, negatives=negatives)
    assert float(loss) == pytest.approx(written_out(images, texts, 0.6, 0.15, 0.4, negatives.tolist()), rel=1e-10)
    everything = ~torch.eye(4, dtype=torch.bool)
    assert float(dhn_nce_loss(images, texts, negatives=everything)) == pytest.approx(float(dhn_nce_loss(images, texts)))
    assert float(dhn_nce_loss(images, texts, negatives=torch.zeros(4, 4, dtype=torch.bool))) == 0


def test_harder_negatives_weigh_more() -> None:
    """With weights in the denominator a hard negative pulls more as beta grows; without them nothing would change."""
    texts = unit(3, 5)
    images = F.normalize(texts + 0.8 * texts[[1, 2, 0]], dim=-1)  # text i + 1 is a hard negative of image i
    losses = [float(dhn_nce_loss(images, texts, beta_image=b, beta_text=b)) for b in (0.0, 0.5, 2.0)]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("temperature", [0.01, 0.6])
def test_gradients_of_the_smallest_batch(temperature: float) -> None:
    images = unit(2, 6).float().requires_grad_()
    texts = unit(2, 7).float().requires_grad_()
    dhn_nce_loss(images, texts, temperature=temperature).backward()
    for gradient in (images.grad, texts.grad):
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_the_gradient_is_that_of_the_formula() -> None:
    images, texts = unit(3, 8).requires_grad_(), unit(3, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dhn_nce_loss(a, b, beta_text=0.3), (images, texts))


def test_one_pair_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 pairs.*larger batch"):
        dhn_nce_loss(unit(1, 0), unit(1, 1))
    with pytest.raises(InputError, match=r"\(3, 5\) and \(2, 5\)"):
        dhn_nce_loss(unit(3, 0), unit(2, 1))
    with pytest.raises(InputError, match="temperature = 0 must be positive"):
        dhn_nce_loss(unit(2, 0), unit(2, 1), temperature=0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> RetinalClip:
    folder = tmp_path_factory.mktemp("text")
    write_text_folder(folder)
    torch.manual_seed(0)
    return RetinalClip(ClipConfig("tf_efficientnet_lite0", 16), folder)


def batch() -> tuple[list[Example], list[tuple[str, str]]]:
    labels = [parse_labels("cfp", "dr_grade=0"), parse_labels("oct", "dme=1"), parse_labels("cfp", "dr_grade=4")]
    examples = [Example(np.zeros((32, 32, 3), np.uint8), label, False) for label in labels]
    return examples, [("cfp", "dr0"), ("oct", "dme"), ("cfp", "dr4")]


def test_the_configuration_chooses_the_loss(clip: RetinalClip) -> None:
    examples, keys = batch()
    images = F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    clip.eval()
    with torch.no_grad():
        default = batch_loss({}, clip, images, examples, keys, random.Random(1))
        other = batch_loss({"loss": "dhn-nce", "temperature": 0.4}, clip, images, examples, keys, random.Random(1))
        rng = random.Random(1)
        from training.data.captions import caption
        texts = clip.encode_text([caption(k, rng) for k in keys])
    relation = torch.tensor([[e.labels.relation(k) for k in keys] for e in examples])
    assert float(default) == pytest.approx(float(contrastive_loss(images, texts, relation, clip.scale)), rel=1e-5)
    expected = written_out(images, texts, 0.4, 0.15, 0.15, (relation == 0).tolist()) / 6
    assert float(other) == pytest.approx(expected, rel=1e-5)


def test_the_model_keeps_the_temperature_of_the_loss(clip: RetinalClip) -> None:
    fix_temperature(clip, {"temperature": 0.5})
    assert float(clip.scale) == pytest.approx(2.0) and not clip.model.logit_scale.requires_grad


def test_an_unknown_loss_is_refused(tmp_path: Path) -> None:
    from training.stages.pretrain_clip import train

    assert choose_loss({}) == "contrastive"
    with pytest.raises(InputError, match="loss = 'hinge' is unknown. Known are: contrastive, dhn-nce"):
        train({"loss": "hinge"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
