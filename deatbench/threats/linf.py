"""The L-infinity ball: each pixel may move by at most eps.

Goodfellow, Shlens, Szegedy 2015 (arXiv 1412.6572); Madry et al. 2018 (arXiv 1706.06083).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.threats.base import NEWTON_STEPS, THREATS, Rng, ThreatModel, descent, have_room


@THREATS.register("Linf")
class Linf(ThreatModel):
    """Largest change of any pixel."""

    norm = "Linf"

    def random_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        noise = rng.uniform(x_NCHW).mul_(2 * self.eps).sub_(self.eps)
        return noise.add_(x_NCHW).clamp_(0.0, 1.0)

    def boundary_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        noise = 2 * rng.uniform(x_NCHW) - 1
        largest = noise.abs().amax(tuple(range(1, noise.ndim)), keepdim=True)
        return (x_NCHW + self.eps * (noise / (largest + 1e-12))).clamp_(0.0, 1.0)

    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float | Tensor) -> Tensor:
        return grad_NCHW.sign().mul_(step).add_(x_adv_NCHW)

    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        lower = (x_NCHW - self.eps).clamp_(min=0.0)
        upper = (x_NCHW + self.eps).clamp_(max=1.0)
        return torch.minimum(torch.maximum(x_adv_NCHW, lower, out=lower), upper, out=lower)

    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        delta_ND = (x_adv_NCHW - x_NCHW).flatten(1)
        return torch.maximum(delta_ND.amax(1), -delta_ND.amin(1))

    def to_hyperplane(self, x_ND: Tensor, w_ND: Tensor, b_N: Tensor) -> Tensor:
        """Every coordinate moves by min(t, its room); t is the root of a concave, piecewise linear function.

        Newton's method from t = 0 approaches that root from below and reaches it exactly after as many steps as
        pieces are crossed, a handful; no sort is needed.
        """
        down_ND, size_ND, room_ND, gap_N = descent(x_ND, w_ND, b_N)
        reach_ND = size_ND * room_ND
        t_N1 = torch.zeros_like(gap_N)[:, None]
        for _ in range(NEWTON_STEPS):
            free_ND = have_room(room_ND, t_N1)
            slope_N = (size_ND * free_ND).sum(1)
            missing_N = gap_N - torch.addcmul(reach_ND, reach_ND, free_ND, value=-1).sum(1)
            new_N1 = torch.where(slope_N > 0, missing_N / slope_N, t_N1[:, 0]).clamp_min_(0)[:, None]
            if not (new_N1 > t_N1).any():
                break
            t_N1 = torch.maximum(new_N1, t_N1)
        return torch.minimum(room_ND, t_N1, out=room_ND).mul_(down_ND)
