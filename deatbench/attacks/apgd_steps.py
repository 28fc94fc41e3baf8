"""What APGD knows of each row, and how it steps in Linf and L2.

Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(arXiv 2003.01690), algorithm 1 and section 3.2: momentum 0.75; step 2·eps, halved at checkpoints where fewer than
rho of the steps rose or nothing was gained since the last one, which also returns to the best point. L1 is in
apgd_l1.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from deatbench.attacks.rows import in_cache, per_row
from deatbench.threats import ThreatModel

MOMENTUM = 0.75
FIRST_CHECKPOINT, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # shares of the number of steps


@dataclass
class State:
    """Per-row tensors; first dimension R. Kept in one place so that rows can leave."""

    owner: Tensor
    target: Tensor
    x_adv: Tensor
    x_before: Tensor
    gradient: Tensor
    x_best: Tensor
    gradient_best: Tensor
    loss_best: Tensor
    loss_best_at_check: Tensor
    loss_before: Tensor
    rises: Tensor
    halved: Tensor
    step: Tensor
    changed: Tensor  # L1: pixel values that differed from the image at the last check
    density: Tensor  # L1: share of the pixel values that a step changes

    @classmethod
    def at(cls, owner_R: Tensor, target_R: Tensor, start_RCHW: Tensor) -> State:
        """Rows that stand at their start; nothing is known of the loss there."""
        zeros_R = torch.zeros(len(start_RCHW), device=start_RCHW.device)
        return cls(
            owner=owner_R,
            target=target_R,
            x_adv=start_RCHW,
            x_before=start_RCHW,
            gradient=start_RCHW,
            x_best=start_RCHW,
            gradient_best=start_RCHW,
            loss_best=zeros_R - torch.inf,
            loss_best_at_check=zeros_R,
            loss_before=zeros_R,  # the published code compares the first loss with 0
            rises=zeros_R,
            halved=torch.ones_like(zeros_R, dtype=torch.bool),
            step=per_row(zeros_R, start_RCHW),
            changed=zeros_R,
            density=zeros_R,
        )

    def keep(self, rows: Tensor) -> None:
        """Let go of all rows but these."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name)[rows])

    def back_to_best(self, mask_R: Tensor) -> None:
        """Return to the point of the highest loss where `mask_R` is True."""
        mask = per_row(mask_R, self.x_adv)
        self.x_adv = torch.where(mask, self.x_best, self.x_adv)
        self.gradient = torch.where(mask, self.gradient_best, self.gradient)


class StepRule(ABC):
    """How far and where to step; it writes `x_adv`, `gradient`, `step` and its own columns of the state."""

    @abstractmethod
    def begin(self, s: State, x_RCHW: Tensor, threat: ThreatModel) -> None:
        """Set the first step of a run that stands at its start."""

    @abstractmethod
    def window(self, steps: int) -> int:
        """Steps before the first check, of `steps` in all."""

    def next_window(self, window: int, steps: int) -> int:
        """Steps between the check after `window` steps and the next."""
        return window

    @abstractmethod
    def move(self, s: State, x_RCHW: Tensor, threat: ThreatModel, iteration: int) -> None:
        """One step from `s.x_adv` along `s.gradient`, inside the ball."""

    @abstractmethod
    def check(self, s: State, x_RCHW: Tensor, threat: ThreatModel, window: int) -> None:
        """Adapt the step to how the last `window` steps went; perhaps return to the best point."""


class HalvedSteps(StepRule):
    """Algorithm 1."""

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def begin(self, s: State, x_RCHW: Tensor, threat: ThreatModel) -> None:
        s.step = s.step + 2.0 * threat.eps

    def window(self, steps: int) -> int:
        return max(int(FIRST_CHECKPOINT * steps), 1)

    def next_window(self, window: int, steps: int) -> int:
        return max(window - max(int(SHORTER * steps), 1), max(int(SHORTEST * steps), 1))

    def move(self, s: State, x_RCHW: Tensor, threat: ThreatModel, iteration: int) -> None:
        """Projected ascent, then momentum, projected again."""
        a = MOMENTUM if iteration > 0 else 1.0

        def stepped(z: Tensor, before: Tensor, gradient: Tensor, step: Tensor, x: Tensor) -> Tensor:
            new = threat.project(threat.ascend(z, gradient, step), x)
            new = new.sub_(z).mul_(a).add_(z).add_((z - before).mul_(1 - a))
            return threat.project(new, x)

        moved = in_cache(stepped, s.x_adv, s.x_before, s.gradient, s.step, x_RCHW)
        s.x_before, s.x_adv = s.x_adv, moved

    def check(self, s: State, x_RCHW: Tensor, threat: ThreatModel, window: int) -> None:
        """Conditions 1 and 2 of section 3.2: halve the step and return to the best point where either holds."""
        too_few_rises = s.rises <= window * self.rho
        nothing_gained = ~s.halved & (s.loss_best_at_check >= s.loss_best)
        s.halved = too_few_rises | nothing_gained
        s.step = torch.where(per_row(s.halved, s.step), s.step / 2, s.step)
        s.back_to_best(s.halved)
