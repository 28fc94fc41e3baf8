"""PGD-AT and standard training against their formulas, written anew; float64, the draws of the batch's own rng."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks.rng import BatchRng
from deatbench.data import Dataset
from deatbench.methods import METHODS, Batch
from deatbench.methods.base import Inner
from deatbench.threats import make_threat

EPS, STEPS, STEP = 0.1, 4, 0.03


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10))
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch(digits: Dataset) -> Batch:
    ((x_NCHW, y_N),) = digits.train.batches([torch.arange(16)], torch.device("cpu"))
    return Batch(x_NCHW.double(), y_N, BatchRng(torch.Generator().manual_seed(5)))


def surprise(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """-log p(y | x), image by image."""
    shares_NK = logits_NK.exp() / logits_NK.exp().sum(1, keepdim=True)
    return torch.stack([-shares_K[label].log() for shares_K, label in zip(shares_NK, y_N, strict=True)])


def saddle_point(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Equation 2.1's inner maximum, by k signed steps from a random corner of the cube."""
    generator = torch.Generator().manual_seed(5)
    x_adv = (x + EPS * (2 * torch.empty_like(x).uniform_(generator=generator) - 1)).clip(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        (slope,) = torch.autograd.grad(surprise(model(x_adv), y).sum(), x_adv)
        x_adv = (x_adv.detach() + STEP * torch.sign(slope)).clip(x - EPS, x + EPS).clip(0, 1)
    return x_adv


@pytest.mark.parametrize("name", ["pgd-at", "deat"])
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_the_loss_is_the_mean_surprise_at_the_saddle_point(name: str, bn_mode: str, batch: Batch) -> None:
    model = net().train()
    theirs = copy.deepcopy(model).train(bn_mode == "train")
    inner = Inner(make_threat("Linf", str(EPS)), STEPS, STEP / EPS, True, bn_mode)  # type: ignore[arg-type]
    found = METHODS[name]().step(model, batch, inner).loss
    x_adv = saddle_point(theirs, batch.x_NCHW, batch.y_N)
    expected = surprise(theirs.train()(x_adv), batch.y_N).mean()
    expected.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for ours, reference in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-9, atol=1e-12)


def test_standard_training_minimises_the_mean_surprise_of_clean_images(batch: Batch) -> None:
    model = net().train()
    inner = Inner(make_threat("Linf", str(EPS)), STEPS, 0.25, True, "eval")
    found = METHODS["standard"]().step(model, batch, inner).loss
    expected = surprise(net().train()(batch.x_NCHW), batch.y_N).mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()))
