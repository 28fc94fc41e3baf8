"""PGD adversarial training: minimise the cross-entropy on PGD's images.

Madry, Makelov, Schmidt, Tsipras, Vladu 2018 (arXiv 1706.06083), equation 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deatbench.attacks.pgd import PGD
from deatbench.methods.base import METHODS, Batch, Inner, Losses, Method


@METHODS.register("pgd-at")
@dataclass(frozen=True)
class PGDAT(Method):
    """PGD adversarial training: cross-entropy on PGD-10 images (Madry et al. 2018)."""

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        attack = PGD(steps=inner.steps, rel_step=inner.rel_step, random_start=inner.random_start)
        return attack(model, batch.x_NCHW, batch.y_N, inner.threat, batch.rng)

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        logits_NK = model(x_adv_NCHW)
        return Losses(nn.functional.cross_entropy(logits_NK, batch.y_N), None, logits_NK)
