"""The loop that FMN and DDN share: walk around the decision boundary and keep the nearest adversarial image.

Each image has a radius. It shrinks where the iterate is adversarial and grows where it is not, so that the iterates
cross the boundary again and again, ever nearer to the image, while the step length falls along a half cosine.

An image leaves as soon as an adversarial iterate within eps is known: a nearer one would not change the verdict.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import Attack
from deatbench.attacks.gradient import ascent_direction, broken
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel

LAST_STEP = 0.01  # share of the step length that is left at the end
TINY = 1e-12


@dataclass
class Search:
    """The images still searched, one row each; first dimension R.

    `z_adv` is the iterate, `radius` how far from `x` the next may lie, `nearest` the distance of the nearest
    adversarial iterate so far (inf: none), `farthest` that of the farthest corner of [0, 1], `spare` a direction for
    where the gradient vanishes.
    """

    owner: Tensor
    x: Tensor
    y: Tensor
    z_adv: Tensor
    radius: Tensor
    nearest: Tensor
    farthest: Tensor
    spare: Tensor

    def keep(self, mask_R: Tensor) -> None:
        """Let go of the rows where `mask_R` is False."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name)[mask_R])

    def stepped(self, gradient: Tensor, step: float) -> Tensor:
        """Perturbation [R, D] after a step of L2 length `step` along the gradient, where that is zero along `spare`."""
        g_RD = gradient.flatten(1)
        length_R1 = torch.linalg.vector_norm(g_RD, dim=1, keepdim=True)
        spare_RD = self.spare.flatten(1)
        spare_RD = spare_RD / torch.linalg.vector_norm(spare_RD, dim=1, keepdim=True).clamp_min(TINY)
        unit_RD = torch.where(length_R1 > 0, g_RD / length_R1.clamp_min(TINY), spare_RD)
        return (self.z_adv - self.x).flatten(1) + step * unit_RD

    def place(self, delta_RD: Tensor) -> None:
        """Go to the image plus `delta_RD`, cut to [0, 1]."""
        self.z_adv = (self.x + delta_RD.view_as(self.x)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Look:
    """What one pass says of each iterate: gradient and value of the loss, distance from x, whether adversarial."""

    gradient: Tensor
    loss_R: Tensor
    distance_R: Tensor
    adversarial_R: Tensor


@dataclass(frozen=True)
class MinimumNorm(Attack):
    """A search for the nearest adversarial image.

    Args:
        steps: forward and backward passes, >= 1.
        step: L2 length of the first step, > 0; the last ones have a hundredth of it.
        gamma: by which share the radius shrinks or grows, in (0, 1).
    """

    first_radius: ClassVar[float]

    steps: int = 100
    step: float = 1.0
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step > 0 or not 0 < self.gamma < 1:
            raise ConfigError(f"{self.name}: steps must be at least 1, step greater than 0, gamma between 0 and 1")

    @abstractmethod
    def check(self, threat: ThreatModel) -> None:
        """Raises ConfigError on a norm that it does not know."""

    @abstractmethod
    def loss(self, logits_RK: Tensor, y_R: Tensor) -> Tensor:
        """What is ascended, shape [R]."""

    @abstractmethod
    def advance(self, search: Search, look: Look, share: float, threat: ThreatModel) -> None:
        """Set each row's next radius and iterate. `share` falls from 1 to 0 along a half cosine."""

    def passes(self, num_classes: int) -> int:
        return self.steps

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        """The nearest adversarial images found, within eps or not; the images themselves where there are none."""
        self.check(threat)
        nearest_NCHW = x_NCHW.clone()
        s = self._begin(x_NCHW, y_N, threat, rng)
        for k in range(self.steps):
            look = self._look(model, s, threat)
            nearer_R = look.adversarial_R & (look.distance_R < s.nearest)
            nearest_NCHW[s.owner[nearer_R]] = s.z_adv[nearer_R]
            s.nearest = torch.where(nearer_R, look.distance_R, s.nearest)
            self.advance(s, look, (1 + math.cos(math.pi * k / self.steps)) / 2, threat)
            stays_R = s.nearest > threat.eps
            if not stays_R.all():
                s.keep(stays_R)
            if len(s.owner) == 0:
                break
        return nearest_NCHW

    def _begin(self, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng) -> Search:
        farthest_N = threat.distance((x_NCHW < 0.5).to(x_NCHW.dtype), x_NCHW)
        return Search(
            owner=torch.arange(len(x_NCHW), device=x_NCHW.device),
            x=x_NCHW,
            y=y_N,
            z_adv=x_NCHW,
            radius=torch.full_like(farthest_N, self.first_radius),
            nearest=torch.full_like(farthest_N, torch.inf),
            farthest=farthest_N,
            spare=rng.normal(x_NCHW),
        )

    def _look(self, model: nn.Module, s: Search, threat: ThreatModel) -> Look:
        """One pass. What lies within eps, and would leave, is confirmed first."""
        gradient, loss_R, logits_RK = ascent_direction(model, s.z_adv, s.y, self.loss)
        distance_R = threat.distance(s.z_adv, s.x)
        adversarial_R = logits_RK.argmax(1) != s.y
        leaves_R = adversarial_R & (distance_R <= threat.eps)
        if leaves_R.any():
            adversarial_R[leaves_R] = broken(model, s.z_adv[leaves_R], s.y[leaves_R], logits_RK[leaves_R])
        return Look(gradient, loss_R.to(distance_R.dtype), distance_R, adversarial_R)
