"""Free adversarial training: one backward pass moves the weights and the perturbation.

Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein 2019, "Adversarial Training for Free!"
(arXiv 1904.12843), Algorithm 1. Each batch is replayed m times; delta <- clip(delta + eps sign(d loss / d x_adv)) along
with the update, and the next batch starts from the delta that the last one left. An epoch makes m times as many
updates, so that the paper trains for 1/m of the usual epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.errors import ConfigError
from deatbench.methods.base import METHODS, Batch, Inner
from deatbench.methods.pgd_at import PGDAT


@METHODS.register("free")
@dataclass(frozen=True)
class Free(PGDAT):
    """Free adversarial training: m replays share one backward pass with the attack (Shafahi et al. 2019).

    Args:
        replays: m, the updates on each batch, >= 1 (published: 8 for CIFAR-10).
    """

    asks_network: ClassVar[bool] = False
    wants_input_gradient: ClassVar[bool] = True
    replays: int = 8

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ConfigError(f"free: replays must be at least 1, not {self.replays}")

    def memory(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """`delta` belongs to the place in the batch, not to the image."""
        return {"delta": torch.zeros_like(x_NCHW)}

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        """What earlier replays and batches left behind; asks no network."""
        return (batch.x_NCHW + batch.memory["delta"]).clamp_(0.0, 1.0)

    def remember(self, batch: Batch, gradient_NCHW: Tensor, inner: Inner) -> None:
        """A step of eps, back into the ball around this batch's images and into [0, 1]."""
        threat, delta = inner.threat, batch.memory["delta"]
        x_adv_NCHW = (batch.x_NCHW + delta).clamp_(0.0, 1.0)
        moved_NCHW = threat.project(threat.ascend(x_adv_NCHW, gradient_NCHW, threat.eps), batch.x_NCHW)
        torch.sub(moved_NCHW, batch.x_NCHW, out=delta)

    def passes(self, inner: Inner) -> float:
        """A training pass for each replay; beyond it the input gradient takes the first layer's share only."""
        return 3.0 * self.replays
