"""One APGD run: gradient, step, the best so far, over all rows that still stand.

Croce, Hein 2020 (arXiv 2003.01690), algorithm 1. The attacks and their losses: apgd.py; how they step: apgd_steps.py
and apgd_l1.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deatbench.attacks.apgd_l1 import SparseSteps
from deatbench.attacks.apgd_steps import HalvedSteps, State, StepRule
from deatbench.attacks.gradient import ascent_direction, broken_rows
from deatbench.attacks.journal import Journal, Place
from deatbench.attacks.rows import Rows, first_of_each, per_row
from deatbench.threats import ThreatModel

if TYPE_CHECKING:
    from deatbench.attacks.apgd import APGD


class Ascent:
    """One APGD run over a set of rows."""

    def __init__(
        self, attack: APGD, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rows: Rows
    ) -> None:
        self.attack, self.model, self.ball = attack, model, threat
        self.x_NCHW, self.y_N = x_NCHW, y_N
        self.stages = attack.stages()
        self.rule: StepRule = SparseSteps(attack.large_reps) if threat.norm == "L1" else HalvedSteps(attack.rho)
        self.broken_owner, self.broken_x = rows.owner_R[:0], x_NCHW[:0]
        self.stage, self.iteration, self.since_check, self.window = 0, 0, 0, 0
        self.s = State.at(rows.owner_R, rows.target_R, rows.start_RCHW)
        self._gather()

    @property
    def threat(self) -> ThreatModel:
        """The ball of this stage."""
        return self.ball.scaled(self.stages[self.stage][0])

    @property
    def steps(self) -> int:
        """How many this stage has."""
        return self.stages[self.stage][1]

    @property
    def last_stage(self) -> bool:
        return self.stage + 1 == len(self.stages)

    def run(self, journal: Journal) -> tuple[Tensor, Tensor]:
        """(indices of the broken images, an adversarial image for each)."""
        if not self._resumed(journal):
            self._enter(0)
        while self._goes_on():
            self.rule.move(self.s, self.x, self.threat, self.iteration)
            self._remember(self._look())
            self.iteration += 1
            self.since_check += 1
            if self.since_check == self.window:
                self._check()
            journal.keep(self._place)
        return self.broken_owner, self.broken_x

    def _goes_on(self) -> bool:
        """Whether there is another step to make; opens the next stage where one ends."""
        while self.iteration >= self.steps and not self.last_stage:
            self._enter(self.stage + 1)
        return self.iteration < self.steps and len(self.s.owner) > 0

    def _enter(self, stage: int) -> None:
        """Stand at the start of a stage: the rows' start, or the best point of the stage before."""
        self.stage, self.iteration, self.since_check = stage, 0, 0
        self.window = self.rule.window(self.steps)
        start = self.s.x_best
        if self.attack.large_reps:
            start = self.threat.project(start, self.x)
        self.s = State.at(self.s.owner, self.s.target, start)
        self.rule.begin(self.s, self.x, self.threat)
        loss_R = self._look()
        self.s.loss_best_at_check = self.s.loss_best = loss_R
        self.s.gradient_best = self.s.gradient

    def _check(self) -> None:
        self.rule.check(self.s, self.x, self.threat, self.window)
        self.s.loss_best_at_check = self.s.loss_best
        self.s.rises = torch.zeros_like(self.s.rises)
        self.since_check, self.window = 0, self.rule.next_window(self.window, self.steps)

    def _place(self) -> Place:
        counters = torch.tensor([self.stage, self.iteration, self.since_check, self.window])
        broken = {"broken_owner": self.broken_owner, "broken_x": self.broken_x}
        return vars(self.s) | broken | {"counters": counters}

    def _resumed(self, journal: Journal) -> bool:
        """Whether `journal` knew a place to go on from; if so this run stands there."""
        place = journal.recall()
        if place is None:
            return False
        on = {key: value.to(self.x_NCHW.device) for key, value in place.items()}
        self.stage, self.iteration, self.since_check, self.window = on.pop("counters").tolist()
        self.broken_owner, self.broken_x = on.pop("broken_owner"), on.pop("broken_x")
        self.s = State(**on)
        self._gather()
        return True

    def _gather(self) -> None:
        """The image and the label of each row."""
        self.x, self.y = self.x_NCHW[self.s.owner], self.y_N[self.s.owner]

    def _look(self) -> Tensor:
        """Gradient and loss where the rows stand; rows of broken images leave. Returns the losses of the others.

        What lies in a larger ball breaks nothing.
        """
        s = self.s
        s.gradient, loss_R, logits_RK = self._direction()
        if not self.last_stage:
            return loss_R
        broken = broken_rows(self.model, s.x_adv, self.y, logits_RK)
        if len(broken):
            owners, first = first_of_each(s.owner[broken])
            self.broken_owner = torch.cat((self.broken_owner, owners))
            self.broken_x = torch.cat((self.broken_x, s.x_adv[broken[first]]))
            stay = torch.nonzero(~torch.isin(s.owner, owners))[:, 0]
            s.keep(stay)
            self._gather()
            loss_R = loss_R[stay]
        return loss_R

    def _direction(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient, averaged over `eot` passes, and the last pass's losses and logits."""
        gradient, loss_R, logits_RK = ascent_direction(self.model, self.s.x_adv, self.y, self._loss)
        for _ in range(self.attack.eot - 1):
            more, loss_R, logits_RK = ascent_direction(self.model, self.s.x_adv, self.y, self._loss)
            gradient = gradient + more
        return gradient / self.attack.eot if self.attack.eot > 1 else gradient, loss_R, logits_RK

    def _loss(self, logits_RK: Tensor, y_R: Tensor) -> Tensor:
        return self.attack.loss(logits_RK, y_R, self.s.target)

    def _remember(self, loss_R: Tensor) -> None:
        s = self.s
        s.rises = s.rises + (loss_R > s.loss_before)
        s.loss_before = loss_R
        better_R = loss_R > s.loss_best
        better = per_row(better_R, s.x_adv)
        s.x_best = torch.where(better, s.x_adv, s.x_best)
        s.gradient_best = torch.where(better, s.gradient, s.gradient_best)
        s.loss_best = torch.where(better_R, loss_R, s.loss_best)
