"""FMN: fast minimum-norm attack.

Pintor, Roli, Brendel, Biggio 2021, "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints"
(arXiv 2102.12827), algorithm 1: a gradient step on the margin of logits, then a projection onto a ball. Until an
adversarial iterate is known the ball's radius is the distance at which the linearised margin vanishes; afterwards
it changes by a factor 1 - gamma or 1 + gamma, gamma falling to 0.001 along a half cosine.

Ours departs from it until an adversarial iterate is known. It goes 5 % beyond that distance, at which rounding would
decide on which side an iterate lies. And the radius grows by 1 + gamma at least: where the cut to [0, 1] makes the
iterate fall short of the distance again and again, the published one stands still and finds nothing.

Projection onto the L1 ball: Duchi, Shalev-Shwartz, Singer, Chandra 2008, "Efficient Projections onto the l1-Ball for
Learning in High Dimensions".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deatbench.attacks.base import ATTACKS
from deatbench.attacks.gradient import margin
from deatbench.attacks.minimum_norm import LAST_STEP, TINY, Look, MinimumNorm, Search
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel

LAST_GAMMA = 0.001
OVERSHOOT = 1.05
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}  # order of the norm that bounds how fast the margin can change


@ATTACKS.register("fmn")
@dataclass(frozen=True)
class FMN(MinimumNorm):
    """Fast minimum-norm attack, for Linf, L2 and L1 (Pintor et al. 2021)."""

    first_radius: ClassVar[float] = 0.0

    @property
    def name(self) -> str:
        return "fmn"

    def check(self, threat: ThreatModel) -> None:
        if threat.norm not in DUAL:
            raise ConfigError(f"fmn minimises {', '.join(DUAL)}, not {threat.norm}", "use --attacks pgd-100")

    def loss(self, logits_RK: Tensor, y_R: Tensor) -> Tensor:
        return margin(logits_RK, y_R)

    def advance(self, search: Search, look: Look, share: float, threat: ThreatModel) -> None:
        s, gamma = search, LAST_GAMMA + (self.gamma - LAST_GAMMA) * share
        steepness_R = torch.linalg.vector_norm(look.gradient.flatten(1), DUAL[threat.norm], dim=1)
        to_boundary_R = look.loss_R.abs() / steepness_R.clamp_min(TINY)
        reached_R = torch.where(s.nearest < torch.inf, 0.0, (look.distance_R + to_boundary_R) * OVERSHOOT)
        grown_R = torch.maximum(s.radius * (1 + gamma), reached_R)
        shrunk_R = torch.minimum(s.radius * (1 - gamma), s.nearest)
        s.radius = torch.where(look.adversarial_R, shrunk_R, grown_R).minimum(s.farthest)
        delta_RD = s.stepped(look.gradient, self.step * (LAST_STEP + (1 - LAST_STEP) * share))
        s.place(into_ball(delta_RD, s.radius[:, None], threat.norm))


def into_ball(delta_RD: Tensor, radius_R1: Tensor, norm: str) -> Tensor:
    """The point of each row's ball around 0 that is nearest in L2."""
    if norm == "Linf":
        return delta_RD.clamp(-radius_R1, radius_R1)
    if norm == "L2":
        length_R1 = torch.linalg.vector_norm(delta_RD, dim=1, keepdim=True)
        return delta_RD * (radius_R1 / length_R1.clamp_min(TINY)).clamp(max=1.0)
    size_RD = delta_RD.abs()
    summed_RD = size_RD.sort(dim=1, descending=True)[0].cumsum(1)
    counts_D = torch.arange(1, size_RD.shape[1] + 1, device=size_RD.device)
    less_R1 = ((summed_RD - radius_R1) / counts_D).amax(1, keepdim=True).clamp_min(0.0)
    return delta_RD.sign() * (size_RD - less_R1).clamp_min(0.0)
