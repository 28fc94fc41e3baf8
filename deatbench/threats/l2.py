"""The Euclidean ball: the perturbation's L2 norm is at most eps.

Carlini, Wagner 2017 (arXiv 1608.04644); Madry et al. 2018 (arXiv 1706.06083).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.threats.base import THREATS, Rng, ThreatModel

_TINY = 1e-12


@THREATS.register("L2")
class L2(ThreatModel):
    """Euclidean length of the change."""

    norm = "L2"
    tolerance = 1e-5

    def random_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        """Direction uniform on the sphere, radius eps·u with u uniform on [0, 1)."""
        direction = rng.normal(x_NCHW)
        radius_N = rng.uniform(x_NCHW[:, :1, :1, :1])
        unit = direction / _length(direction)
        return (x_NCHW + unit * (self.eps * radius_N)).clamp_(0.0, 1.0)

    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float) -> Tensor:
        return x_adv_NCHW + grad_NCHW * (step / _length(grad_NCHW))

    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """Scale back onto the ball, then clip to [0, 1]; clipping toward x never leaves the ball."""
        delta = x_adv_NCHW - x_NCHW
        factor = (self.eps / _length(delta)).clamp_(max=1.0)
        return (x_NCHW + delta * factor).clamp_(0.0, 1.0)

    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        return torch.linalg.vector_norm((x_adv_NCHW - x_NCHW).flatten(1), dim=1)


def _length(delta_NCHW: Tensor) -> Tensor:
    """L2 norm of each image, shape [N, 1, 1, 1], kept away from 0."""
    return torch.linalg.vector_norm(delta_NCHW, dim=(1, 2, 3), keepdim=True).clamp_min(_TINY)
