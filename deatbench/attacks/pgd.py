"""PGD: projected gradient descent on the cross-entropy.

Madry, Makelov, Schmidt, Tsipras, Vladu 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks"
(arXiv 1706.06083), section 2.1. `pgd-20` is 20 steps of eps/4 from one random start.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deatbench.attacks.base import ATTACKS
from deatbench.attacks.gradient import cross_entropy
from deatbench.attacks.gradient_ascent import GradientAscent


@ATTACKS.register("pgd-{steps:int}")
@dataclass(frozen=True)
class PGD(GradientAscent):
    """PGD with k steps on the cross-entropy (Madry et al. 2018)."""

    @property
    def name(self) -> str:
        return f"pgd-{self.steps}"

    def loss(self, logits_NK: Tensor, y_N: Tensor) -> Tensor:
        return cross_entropy(logits_NK, y_N)
