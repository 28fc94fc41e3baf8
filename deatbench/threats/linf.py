"""The L-infinity ball: each pixel may move by at most eps.

Goodfellow, Shlens, Szegedy 2015 (arXiv 1412.6572); Madry et al. 2018 (arXiv 1706.06083).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.threats.base import THREATS, Rng, ThreatModel


@THREATS.register("Linf")
class Linf(ThreatModel):
    """Largest change of any pixel."""

    norm = "Linf"

    def random_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        noise = rng.uniform(x_NCHW).mul_(2 * self.eps).sub_(self.eps)
        return noise.add_(x_NCHW).clamp_(0.0, 1.0)

    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float) -> Tensor:
        return x_adv_NCHW.add(grad_NCHW.sign(), alpha=step)

    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        lower = (x_NCHW - self.eps).clamp_(min=0.0)
        upper = (x_NCHW + self.eps).clamp_(max=1.0)
        return torch.clamp(x_adv_NCHW, lower, upper)

    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        return (x_adv_NCHW - x_NCHW).abs().flatten(1).amax(1)
