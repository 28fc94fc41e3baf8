"""TRADES' loss and inner maximisation against equation 5 of the paper, written with probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks.rng import BatchRng
from deatbench.data import Dataset
from deatbench.methods import Batch
from deatbench.methods.base import Inner
from deatbench.methods.trades import TRADES
from deatbench.threats import make_threat


def divergence(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    """KL(p || q) of each image."""
    return (p_NK * (p_NK.log() - q_NK.log())).sum(1)


def digits_batch(digits: Dataset, n: int = 32) -> Batch:
    ((x_NCHW, y_N),) = digits.train.batches([torch.arange(n)], torch.device("cpu"))
    return Batch(x_NCHW, y_N, BatchRng(torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_loss_is_equation_5(robust_net: nn.Module, digits: Dataset, beta: float) -> None:
    batch = digits_batch(digits)
    x_adv_NCHW = (batch.x_NCHW + 0.1 * torch.randn_like(batch.x_NCHW)).clamp(0, 1)
    with torch.no_grad():
        clean_NK, adv_NK = robust_net(batch.x_NCHW).softmax(1), robust_net(x_adv_NCHW).softmax(1)
        natural = -clean_NK.gather(1, batch.y_N[:, None]).log().mean()
        expected = natural + beta * divergence(clean_NK, adv_NK).mean()
        found = TRADES(beta).loss(robust_net, batch, x_adv_NCHW).loss
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_clean_branch_gets_a_gradient(robust_net: nn.Module, digits: Dataset) -> None:
    """Both arguments of the divergence are trained; detaching the clean one is another method."""
    batch = digits_batch(digits)
    x_adv_NCHW = (batch.x_NCHW + 0.1).clamp(0, 1)
    found = torch.autograd.grad(TRADES(6.0).loss(robust_net, batch, x_adv_NCHW).loss, list(robust_net.parameters()))
    clean_NK, adv_NK = robust_net(batch.x_NCHW).softmax(1), robust_net(x_adv_NCHW).softmax(1)
    natural = -clean_NK.gather(1, batch.y_N[:, None]).log().mean()
    expected = torch.autograd.grad(natural + 6 * divergence(clean_NK, adv_NK).mean(), list(robust_net.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_perturbation_climbs_the_divergence(robust_net: nn.Module, digits: Dataset) -> None:
    """Steps along the sign of the divergence's gradient from a start that is off by about 0.001."""
    batch, threat = digits_batch(digits), make_threat("Linf", "0.1")
    with torch.no_grad():
        clean_NK = robust_net(batch.x_NCHW).softmax(1)
    noise = BatchRng(torch.Generator().manual_seed(0)).normal(batch.x_NCHW)
    x_adv = batch.x_NCHW + 0.001 * noise
    for _ in range(4):
        x = x_adv.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(divergence(clean_NK, robust_net(x).softmax(1)).sum(), x)
        x_adv = (x + 0.025 * gradient.sign()).clamp(batch.x_NCHW - 0.1, batch.x_NCHW + 0.1).clamp(0, 1).detach()
    inner = Inner(threat, steps=4, rel_step=0.25, random_start=True, bn_mode="eval")
    found = TRADES().perturb(robust_net, batch, inner)
    share_equal = ((found - x_adv).abs() <= 1e-5).float().mean()
    assert share_equal > 0.98  # where a gradient is almost 0 its sign may turn with rounding
    with torch.no_grad():
        reached = divergence(clean_NK, robust_net(found).softmax(1)).mean()
        started = divergence(clean_NK, robust_net(batch.x_NCHW + 0.001 * noise).softmax(1)).mean()
    assert reached > 10 * started
