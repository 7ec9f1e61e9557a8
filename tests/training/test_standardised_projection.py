"""Learning a projection on standardised features, and folding it into one without a bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.stages.standardised_projection import StandardisedProjection


def features(count: int, seed: int = 0) -> torch.Tensor:
    """Varying together, little about a large mean, and one never: as behind the rectifiers of a trunk."""
    draw, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(1)
    mean, mixture = 4 * torch.rand(48, generator=fixed) + 1, 0.1 * torch.randn(12, 48, generator=fixed)
    found = mean + torch.randn(count, 12, generator=draw) @ mixture
    found[:, 7] = 0
    return found


def test_folded_weights_do_the_same_without_a_bias() -> None:
    known, new = features(400), features(50, seed=9)
    head = StandardisedProjection(torch.randn(6, 48), known)
    nn.init.normal_(head.bias)
    assert torch.allclose(new @ head.folded(known).T, head(new), atol=0.02 * float(head(new).detach().std()))


def test_what_all_images_share_is_taken_out() -> None:
    weight = torch.randn(6, 48)
    head = StandardisedProjection(weight, known := features(400))
    assert torch.allclose(head(known), known @ weight.T - (known @ weight.T).mean(0), atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_faster_than_the_plain_projection(seed: int) -> None:
    """Two classes that differ in one small feature, 30 steps of the same optimiser from the same weights."""
    torch.manual_seed(seed)
    known = features(200, seed)
    kind = (torch.arange(200) % 2).bool()
    known[kind, 3] += 0.5
    start = torch.randn(2, 48) / 7

    def loss_after(project: nn.Module) -> float:
        optimizer = torch.optim.AdamW(project.parameters(), lr=1e-2)
        for _ in range(30):
            loss = F.cross_entropy(F.normalize(project(known), dim=-1) * 5, kind.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    plain = nn.Linear(48, 2, bias=False)
    plain.weight.data.copy_(start)
    assert loss_after(StandardisedProjection(start, known)) < 0.9 * loss_after(plain)
