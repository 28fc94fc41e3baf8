"""The loop that PGD, CW and FGSM share: K steps of steepest ascent, each projected back into the ball.

A step is a function of the iterate alone, so that an iterate that returns bit by bit repeats what followed it for ever.
With steps of fixed length along the gradient's sign this is how nearly every image ends, most within 30 steps and going
to and fro between two points: its last iterate is then known without the steps in between.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.base import Attack
from deatbench.attacks.gradient import Loss, ascent_direction, input_gradient
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel
from deatbench.threats.base import Rng

LONG = 40  # steps from which on looking for cycles pays; below, nothing waits for the device
PERIOD = 4  # cycles of 1, 2 and 4 iterates are seen


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
        if self.steps < LONG:
            return self._ascend(model, x_adv, x_NCHW, y_N, threat, self.steps)
        return self._ascend_to_cycles(model, x_adv, x_NCHW, y_N, threat)

    def history(self, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
        """Which images each iterate fools, bool [steps + 1, N]: the first is the start, the last the answer."""
        x_adv = threat.random_start(x_NCHW, rng) if self.random_start else x_NCHW
        fooled = []
        for _ in range(self.steps):
            gradient, _, logits_NK = ascent_direction(model, x_adv, y_N, self.loss)
            fooled.append(logits_NK.argmax(1) != y_N)
            x_adv = threat.project(threat.ascend(x_adv, gradient, self.rel_step * threat.eps), x_NCHW)
        with torch.no_grad():
            fooled.append(model(x_adv).argmax(1) != y_N)
        return torch.stack(fooled)

    def _ascend(self, model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, steps: int) -> Tensor:
        return ascend(model, x_adv, x, y, threat, self.loss, steps, self.rel_step)

    def _ascend_to_cycles(self, model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
        """The last iterates of `_ascend`; an image that stands where it stood PERIOD steps ago leaves the batch.

        It is looked at where a multiple of PERIOD steps remains: there it would stand in the end.
        """
        x_adv = self._ascend(model, x_adv, x, y, threat, self.steps % PERIOD)
        last_NCHW = x_adv.clone()
        moving = torch.arange(len(x), device=x.device)
        for _ in range(self.steps // PERIOD):
            before, x_adv = x_adv, self._ascend(model, x_adv, x, y, threat, PERIOD)
            last_NCHW[moving] = x_adv
            moves_R = (x_adv != before).flatten(1).any(1)
            if not moves_R.all():
                moving, x_adv, x, y = moving[moves_R], x_adv[moves_R], x[moves_R], y[moves_R]
            if len(moving) == 0:
                break
        return last_NCHW


def ascend(
    model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, loss: Loss, steps: int, rel_step: float
) -> Tensor:
    """`steps` steps of steepest ascent on `loss` from `x_adv`, each of `rel_step` eps and projected into x's ball."""
    for _ in range(steps):
        gradient = input_gradient(model, x_adv, y, loss)
        x_adv = threat.project(threat.ascend(x_adv, gradient, rel_step * threat.eps), x)
    return x_adv
