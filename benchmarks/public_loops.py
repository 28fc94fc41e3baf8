"""Adversarial training steps as public code takes them, written anew from what that code computes; for comparison only.

Costs are in forward-equivalents F per image and step: a forward is 1, its backward to the input 1, to the weights 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS, ALPHA = 8 / 255, 2 / 255


@dataclass(frozen=True)
class PublicLoop:
    """One way to take a step: (model, x, y, number of attack steps) -> loss, after which `backward` is due."""

    name: str
    loss: Callable[[nn.Module, Tensor, Tensor, int], Tensor]
    cost: Callable[[int], float]
    says: str
    channels_last: bool = False
    autocast: bool = False
    waits: bool = False  # reads the loss on the host every step


def rice_loss(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """As the loop of "Overfitting in adversarially robust deep learning" (2020): backward() in the attack, train mode.

    Weight gradients are computed and thrown away; clean images pass once more for the log.
    """
    delta = torch.empty_like(x).uniform_(-EPS, EPS)
    delta = (x + delta).clamp(0, 1).sub(x).requires_grad_(True)
    for _ in range(steps):
        F.cross_entropy(model(x + delta), y).backward()
        assert delta.grad is not None
        moved = (delta.detach() + ALPHA * delta.grad.sign()).clamp(-EPS, EPS)
        delta.data = (x + moved).clamp(0, 1) - x
        delta.grad.zero_()
    model.zero_grad()
    loss = F.cross_entropy(model(x + delta.detach()), y)
    clean = model(x)
    float((clean.argmax(1) == y).sum())
    return loss


def torchattacks_loss(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """As with torchattacks' PGD: autograd.grad with respect to the images, eval mode inside, train mode after."""
    model.eval()
    adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1).detach()
    for _ in range(steps):
        adv.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        adv = adv.detach() + ALPHA * gradient.sign()
        adv = (x + (adv - x).clamp(-EPS, EPS)).clamp(0, 1).detach()
    model.train()
    return F.cross_entropy(model(adv), y)


def trades_loss(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """As TRADES' published loss: clean logits anew in every step of the attack and once more for the robust term."""
    model.eval()
    adv = x + 0.001 * torch.randn_like(x)
    for _ in range(steps):
        adv.requires_grad_(True)
        apart = F.kl_div(F.log_softmax(model(adv), 1), F.softmax(model(x), 1), reduction="sum")
        (gradient,) = torch.autograd.grad(apart, adv)
        adv = adv.detach() + ALPHA * gradient.sign()
        adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1).detach()
    model.train()
    clean = F.cross_entropy(model(x), y)
    robust = F.kl_div(F.log_softmax(model(adv), 1), F.softmax(model(x), 1), reduction="batchmean")
    return clean + 6.0 * robust


PUBLIC_LOOPS = (
    PublicLoop("rice", rice_loss, lambda k: 3.0 * k + 4, "backward() in the attack, extra clean forward", waits=True),
    PublicLoop("torchattacks", torchattacks_loss, lambda k: 2.0 * k + 3, "autograd.grad to the input"),
    PublicLoop("amp", torchattacks_loss, lambda k: 2.0 * k + 3, "the same, autocast, channels last", True, True),
    PublicLoop("trades-published", trades_loss, lambda k: 3.0 * k + 9, "clean forward in every attack step"),
)
