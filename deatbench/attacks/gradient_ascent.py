"""The loop that PGD, CW and FGSM share: K steps of steepest ascent, each projected back into the ball."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from deatbench.attacks.base import Attack
from deatbench.attacks.gradient import input_gradient
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel
from deatbench.threats.base import Rng


@dataclass(frozen=True)
class GradientAscent(Attack):
    """Projected gradient ascent on `loss`; the last iterate is the answer.

    Args:
        steps: number of gradient steps, >= 1.
        rel_step: length of a step in units of eps.
        random_start: begin at a random point of the ball instead of at the image.
        restarts: independent tries; each further one sees only the survivors.
    """

    steps: int = 20
    rel_step: float = 0.25
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ConfigError(f"{self.name}: steps and restarts must be at least 1", "for example pgd-20")
        if not self.rel_step > 0:
            raise ConfigError(f"{self.name}: rel_step must be greater than 0, not {self.rel_step}")

    @abstractmethod
    def loss(self, logits_NK: Tensor, y_N: Tensor) -> Tensor:
        """What is ascended, shape [N]."""

    @property
    def runs(self) -> int:
        return self.restarts

    def passes(self, num_classes: int) -> int:
        return self.steps

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: Rng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        x_adv = threat.random_start(x_NCHW, rng) if self.random_start else x_NCHW
        step = self.rel_step * threat.eps
        for _ in range(self.steps):
            gradient = input_gradient(model, x_adv, y_N, self.loss)
            x_adv = threat.project(threat.ascend(x_adv, gradient, step), x_NCHW)
        return x_adv
