"""CW-k as adversarial-training papers use it: PGD on Carlini and Wagner's margin loss, inside the ball.

Carlini, Wagner 2017, "Towards Evaluating the Robustness of Neural Networks" (arXiv 1608.04644), loss f6 with
kappa unbounded. It is *not* their minimum-norm attack with a search over the constant c.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deatbench.attacks.base import ATTACKS
from deatbench.attacks.gradient import margin
from deatbench.attacks.gradient_ascent import GradientAscent


@ATTACKS.register("cw-{steps:int}")
@dataclass(frozen=True)
class CW(GradientAscent):
    """PGD with k steps on the margin loss of Carlini & Wagner (not their minimum-norm attack)."""

    @property
    def name(self) -> str:
        return f"cw-{self.steps}"

    def loss(self, logits_NK: Tensor, y_N: Tensor) -> Tensor:
        return margin(logits_NK, y_N)
