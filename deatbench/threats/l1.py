"""The L1 ball: the absolute changes of all pixel values sum to at most eps.

Croce, Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (arXiv 2103.01208): the
admissible set is the ball cut with [0, 1], and projecting onto both at once is not projecting onto one and then the
other. Sparse steps: Tramèr, Boneh 2019, "Adversarial Training and Robustness for Multiple Perturbations"
(arXiv 1904.13000), algorithm 1 (SLIDE).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.threats.base import THREATS, Rng, ThreatModel, descent, one_of_each

DENSITY = 0.01  # share of the pixel values that a step of plain PGD changes
SLACK = 2e-7  # how closely the length of a projected change meets eps, as a share of eps
SEARCH_STEPS = 60
_TINY = 2.0**-25  # below any distance of a drawn float32 from 1


@THREATS.register("L1")
class L1(ThreatModel):
    """Sum of the absolute changes."""

    norm = "L1"

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """A sum over thousands of float32 values is good to a share of itself."""
        return 1e-5 * max(self.eps, 1.0)

    def random_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        """Uniform in the ball: D Laplace numbers, divided by the sum of their sizes and of one more exponential.

        Exponentials over their sum are uniform on the simplex; the one left out is the distance to the surface.
        """
        place = 2 * rng.uniform(x_NCHW) - 1
        size = -torch.log((1 - place.abs()).clamp_min(_TINY))
        inward_N = -torch.log((1 - rng.uniform(one_of_each(x_NCHW))).clamp_min(_TINY))
        total_N = size.sum(dim=tuple(range(1, size.ndim)), keepdim=True) + inward_N
        return (x_NCHW + self.eps * (place.sign() * size / total_N)).clamp_(0.0, 1.0)

    def boundary_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        """Gaussian noise, projected: a change of few pixels, as long as [0, 1] allows."""
        return self.project(x_NCHW + rng.normal(x_NCHW), x_NCHW)

    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float | Tensor) -> Tensor:
        """Divides the step evenly among the 1 % of pixel values with the steepest gradients that [0, 1] lets move.

        The steepest step in L1 moves one single value, which fills up and hinders; a hundredth is SLIDE's choice.
        """
        blocked = torch.where(grad_NCHW > 0, x_adv_NCHW >= 1, x_adv_NCHW <= 0)
        slope_ND = grad_NCHW.masked_fill(blocked, 0.0).flatten(1)
        count = max(round(DENSITY * slope_ND.shape[1]), 1)
        way_ND = sparse_direction(slope_ND, slope_ND.abs().topk(count).values[:, -1:])
        return x_adv_NCHW + step * way_ND.view_as(grad_NCHW)

    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """The nearest point of the ball cut with [0, 1].

        Each change is shortened by the same t, but at least into [0, 1] and at most to nothing.
        """
        delta = x_adv_NCHW - x_NCHW
        size_ND = delta.abs().flatten(1)
        room_ND = torch.where(delta > 0, 1 - x_NCHW, x_NCHW).flatten(1)
        excess_ND = (size_ND - room_ND).clamp_min_(0.0)
        kept_ND = _kept(_shortening(size_ND, excess_ND, self.eps), size_ND, excess_ND)
        return (x_NCHW + delta.sign() * kept_ND.view_as(delta)).clamp_(0.0, 1.0)

    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        return (x_adv_NCHW - x_NCHW).abs().flatten(1).sum(1)

    def to_hyperplane(self, x_ND: Tensor, w_ND: Tensor, b_N: Tensor) -> Tensor:
        """The coordinates with the largest |w| move as far as [0, 1] lets them, one after the other; the last in part.

        Those with |w| <= 1e-8 stay, as published: they would cost length and gain nothing.
        """
        down_ND, size_ND, room_ND, gap_N = descent(x_ND, w_ND.masked_fill(w_ND.abs() <= 1e-8, 0.0), b_N)
        size_ND, order_ND = size_ND.sort(dim=1, descending=True, stable=True)
        room_ND = room_ND.gather(1, order_ND)
        reach_ND = size_ND * room_ND
        missing_ND = gap_N[:, None] - (reach_ND.cumsum(1) - reach_ND)
        in_part_ND = (missing_ND.clamp_min(0.0) / size_ND).nan_to_num_(0.0)
        move_ND = torch.where(missing_ND >= reach_ND, room_ND, in_part_ND)
        return down_ND * torch.empty_like(move_ND).scatter_(1, order_ND, move_ND)


def sparse_direction(grad_ND: Tensor, threshold_N1: Tensor) -> Tensor:
    """Signs of the gradient where it is at least as steep as the threshold, scaled to L1 norm 1; 0 where it is 0."""
    sign_ND = grad_ND.sign() * (grad_ND.abs() >= threshold_N1)
    return sign_ND / sign_ND.abs().sum(1, keepdim=True).clamp_min(1.0)


def _kept(t_N1: Tensor, size_ND: Tensor, excess_ND: Tensor) -> Tensor:
    """What is left of each change if all are shortened by t."""
    return (size_ND - torch.maximum(t_N1, excess_ND)).clamp_min_(0.0)


def _shortening(size_ND: Tensor, excess_ND: Tensor, eps: float) -> Tensor:
    """The t >= 0 [N, 1] at which the shortened changes sum to eps; 0 where they do so without.

    The sum falls piecewise linearly with t. Newton's method lands on the root once it has found its piece; a bracket
    around the root, halved when Newton leaves it, sees to it that it does. A row that is there stays there.
    """
    t_N1 = low_N1 = size_ND.new_zeros(len(size_ND), 1)
    high_N1 = size_ND.amax(1, keepdim=True)
    for _ in range(SEARCH_STEPS):
        over_N1 = _kept(t_N1, size_ND, excess_ND).sum(1, keepdim=True) - eps
        low_N1, high_N1 = torch.where(over_N1 > 0, t_N1, low_N1), torch.where(over_N1 > 0, high_N1, t_N1)
        moving_N1 = ((t_N1 >= excess_ND) & (t_N1 < size_ND)).sum(1, keepdim=True)
        move_N1 = over_N1 / moving_N1
        newton_N1 = t_N1 + move_N1
        inside_N1 = (newton_N1 > low_N1) & (newton_N1 < high_N1)
        there_N1 = (over_N1.abs() <= SLACK * eps) | (move_N1.abs() <= SLACK * t_N1)
        new_N1 = torch.where(inside_N1, newton_N1, (low_N1 + high_N1) / 2)
        new_N1 = torch.where(there_N1, t_N1, new_N1)
        if torch.equal(new_N1, t_N1):
            break
        t_N1 = new_N1
    return t_N1
