"""FGSM: one step of length eps from the image itself.

Goodfellow, Shlens, Szegedy 2015, "Explaining and Harnessing Adversarial Examples" (arXiv 1412.6572), equation in
section 4. A weak attack: its number says nothing about robustness, but beside PGD it shows catastrophic overfitting.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deatbench.attacks.base import ATTACKS
from deatbench.attacks.gradient import cross_entropy
from deatbench.attacks.gradient_ascent import GradientAscent


@ATTACKS.register("fgsm")
@dataclass(frozen=True)
class FGSM(GradientAscent):
    """Fast gradient sign method: one step of eps, no random start (Goodfellow et al. 2015)."""

    steps: int = 1
    rel_step: float = 1.0
    random_start: bool = False

    @property
    def name(self) -> str:
        return "fgsm"

    def loss(self, logits_NK: Tensor, y_N: Tensor) -> Tensor:
        return cross_entropy(logits_NK, y_N)
