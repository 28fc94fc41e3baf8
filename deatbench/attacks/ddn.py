"""DDN: decoupled direction and norm.

Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger 2019, "Decoupling Direction and Norm for Efficient Gradient-Based
L2 Adversarial Attacks and Defenses" (arXiv 1811.09600), algorithm 1: a step along the gradient of the cross-entropy
turns the perturbation, which is then given the length of the radius; that begins at 1 and changes by a factor
1 - gamma or 1 + gamma. Without the paper's rounding to 256 levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deatbench.attacks.base import ATTACKS
from deatbench.attacks.gradient import cross_entropy
from deatbench.attacks.minimum_norm import LAST_STEP, TINY, Look, MinimumNorm, Search
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel


@ATTACKS.register("ddn")
@dataclass(frozen=True)
class DDN(MinimumNorm):
    """Decoupled direction and norm: minimum-norm attack for L2 (Rony et al. 2019)."""

    first_radius: ClassVar[float] = 1.0

    @property
    def name(self) -> str:
        return "ddn"

    def check(self, threat: ThreatModel) -> None:
        if threat.norm != "L2":
            raise ConfigError(f"ddn minimises L2, not {threat.norm}", "use --norm L2, or --attacks fmn")

    def loss(self, logits_RK: Tensor, y_R: Tensor) -> Tensor:
        return cross_entropy(logits_RK, y_R)

    def advance(self, search: Search, look: Look, share: float, threat: ThreatModel) -> None:
        s = search
        factor_R = torch.where(look.adversarial_R, 1 - self.gamma, 1 + self.gamma)
        s.radius = (s.radius * factor_R).minimum(s.farthest)
        delta_RD = s.stepped(look.gradient, self.step * (LAST_STEP + (1 - LAST_STEP) * share))
        length_RD = torch.linalg.vector_norm(delta_RD, dim=1, keepdim=True)
        s.place(delta_RD * (s.radius[:, None] / length_RD.clamp_min(TINY)))
