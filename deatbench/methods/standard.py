"""Standard training: empirical risk minimisation on clean images. The baseline that every attack brings to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from deatbench.methods.base import METHODS, Batch, Inner, Losses, Method


@METHODS.register("standard")
@dataclass(frozen=True)
class Standard(Method):
    """Standard training: cross-entropy on clean images, no robustness."""

    adversarial: ClassVar[bool] = False
    asks_network: ClassVar[bool] = False

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        return batch.x_NCHW

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        logits_NK = model(x_adv_NCHW)
        return Losses(batch.cross_entropy(logits_NK), logits_NK, None)
