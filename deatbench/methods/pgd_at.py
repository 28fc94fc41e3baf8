"""PGD adversarial training: minimise the cross-entropy on PGD's images.

Madry, Makelov, Schmidt, Tsipras, Vladu 2018 (arXiv 1706.06083), equation 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deatbench.attacks.gradient_ascent import ascend
from deatbench.methods.base import METHODS, Batch, Inner, Losses, Method


@METHODS.register("pgd-at")
@dataclass(frozen=True)
class PGDAT(Method):
    """PGD adversarial training: cross-entropy on PGD-10 images (Madry et al. 2018)."""

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        x_NCHW, threat = batch.x_NCHW, inner.threat
        start = threat.random_start(x_NCHW, batch.rng) if inner.random_start else x_NCHW
        return ascend(model, start, x_NCHW, batch.y_N, threat, batch.label_loss, inner.steps, inner.rel_step)

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        logits_NK = model(x_adv_NCHW)
        return Losses(batch.cross_entropy(logits_NK), None, logits_NK)
