"""The Euclidean ball: the perturbation's L2 norm is at most eps.

Carlini, Wagner 2017 (arXiv 1608.04644); Madry et al. 2018 (arXiv 1706.06083).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.threats.base import NEWTON_STEPS, THREATS, Rng, ThreatModel, descent, have_room, one_of_each

_TINY = 1e-12


@THREATS.register("L2")
class L2(ThreatModel):
    """Euclidean length of the change."""

    norm = "L2"
    tolerance = 1e-5

    def random_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        """Direction uniform on the sphere, radius eps·u with u uniform on [0, 1)."""
        direction = rng.normal(x_NCHW)
        radius_N = rng.uniform(one_of_each(x_NCHW))
        unit = direction / _length(direction)
        return (x_NCHW + unit * (self.eps * radius_N)).clamp_(0.0, 1.0)

    def boundary_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        noise = rng.normal(x_NCHW)
        return (x_NCHW + self.eps * (noise / _length(noise))).clamp_(0.0, 1.0)

    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float | Tensor) -> Tensor:
        return x_adv_NCHW + grad_NCHW * (step / _length(grad_NCHW))

    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """Scale back onto the ball, then clip to [0, 1]; clipping toward x never leaves the ball."""
        delta = x_adv_NCHW - x_NCHW
        factor = (self.eps / _length(delta)).clamp_(max=1.0)
        return (x_NCHW + delta * factor).clamp_(0.0, 1.0)

    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        return torch.linalg.vector_norm((x_adv_NCHW - x_NCHW).flatten(1), dim=1)

    def to_hyperplane(self, x_ND: Tensor, w_ND: Tensor, b_N: Tensor) -> Tensor:
        """Every coordinate moves by min(t·|w|, its room); t by Newton's method as for Linf."""
        down_ND, size_ND, room_ND, gap_N = descent(x_ND, w_ND, b_N)
        reach_ND, square_ND = size_ND * room_ND, size_ND.square()
        t_N1 = torch.zeros_like(gap_N)[:, None]
        for _ in range(NEWTON_STEPS):
            free_ND = have_room(room_ND, t_N1 * size_ND)
            slope_N = (square_ND * free_ND).sum(1)
            missing_N = gap_N - torch.addcmul(reach_ND, reach_ND, free_ND, value=-1).sum(1)
            new_N1 = torch.where(slope_N > 0, missing_N / slope_N, t_N1[:, 0]).clamp_min_(0)[:, None]
            if not (new_N1 > t_N1).any():
                break
            t_N1 = torch.maximum(new_N1, t_N1)
        return torch.minimum(room_ND, size_ND.mul_(t_N1), out=room_ND).mul_(down_ND)


def _length(delta_NCHW: Tensor) -> Tensor:
    """L2 norm of each image, shape [N, 1, ..., 1], kept away from 0."""
    return torch.linalg.vector_norm(delta_NCHW, dim=tuple(range(1, delta_NCHW.ndim)), keepdim=True).clamp_min(_TINY)
