"""APGD: projected gradient ascent that chooses its own step size. APGD-CE, APGD-DLR and targeted APGD-T.

Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(arXiv 2003.01690), algorithm 1 and sections 3.2, 4.1. Momentum 0.75; step 2·eps, halved at checkpoints where fewer than
rho of the steps rose or nothing was gained since the last one, which also returns to the best point.

Ours differs from the published code in cost, not in what it computes: an image leaves the batch as soon as it is
broken, and all target classes of all images fill one batch together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS, Attack
from deatbench.attacks.gradient import ascent_direction, broken, cross_entropy
from deatbench.attacks.journal import FORGETFUL, Journal, Place
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import Rows, first_of_each, ranked_targets
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel

MOMENTUM = 0.75
FIRST_CHECKPOINT, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # shares of the number of steps


def dlr(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Difference of logits ratio, shape [N] (equation 6). Raises ConfigError below 3 classes."""
    if logits_NK.shape[1] < 3:
        raise ConfigError("apgd-dlr: the DLR loss needs at least 3 classes", "use --attacks pgd-100,cw-100")
    sorted_NK, order_NK = logits_NK.sort(dim=1)
    right_N = logits_NK.gather(1, y_N[:, None])[:, 0]
    strongest_wrong_N = torch.where(order_NK[:, -1] == y_N, sorted_NK[:, -2], sorted_NK[:, -1])
    return -(right_N - strongest_wrong_N) / (sorted_NK[:, -1] - sorted_NK[:, -3] + 1e-12)


def targeted_dlr(logits_NK: Tensor, y_N: Tensor, target_N: Tensor) -> Tensor:
    """Targeted difference of logits ratio, shape [N] (equation 7); needs K >= 4."""
    sorted_NK = logits_NK.sort(dim=1)[0]
    right_N = logits_NK.gather(1, y_N[:, None])[:, 0]
    wanted_N = logits_NK.gather(1, target_N[:, None])[:, 0]
    return -(right_N - wanted_N) / (sorted_NK[:, -1] - 0.5 * (sorted_NK[:, -3] + sorted_NK[:, -4]) + 1e-12)


@dataclass(frozen=True)
class APGD(Attack):
    """What the three share; they differ in their loss.

    Args:
        steps: gradient steps (published: 100).
        rho: share of rising steps below which the step size is halved (published: 0.75).
        restarts: random starts, each on the survivors.
        targets: number of target classes of the targeted loss (published: 9), capped at K - 1.
    """

    id: ClassVar[str]
    targeted: ClassVar[bool] = False

    steps: int = 100
    rho: float = 0.75
    restarts: int = 1
    targets: int = 9

    @property
    def name(self) -> str:
        return self.id

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        """What is ascended, shape [R]; `target_R` is -1 for the untargeted losses."""
        raise NotImplementedError

    @property
    def runs(self) -> int:
        return self.restarts

    def rows(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1) if self.targeted else 1

    def passes(self, num_classes: int) -> int:
        return self.rows(num_classes) * (self.steps + 1)

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        x_adv_NCHW = x_NCHW.clone()
        standing_N = torch.ones(len(x_NCHW), dtype=torch.bool, device=x_NCHW.device)
        targets_NT = self._targets(model, x_NCHW)
        for columns in rng.columns(targets_NT.shape[1]):
            images = torch.nonzero(standing_N)[:, 0]
            starts = [threat.boundary_start(x_NCHW[images], rng) for _ in columns]
            rows = Rows.stack(images, targets_NT[images][:, columns], starts)
            owner, found = _Ascent(self, model, x_NCHW, y_N, threat, rows).run(journal)
            x_adv_NCHW[owner] = found
            standing_N[owner] = False
        return x_adv_NCHW

    def _targets(self, model: nn.Module, x_NCHW: Tensor) -> Tensor:
        """Target classes of each image, [N, T]; one column of -1 for the untargeted losses."""
        if not self.targeted:
            return torch.full((len(x_NCHW), 1), -1, device=x_NCHW.device)
        targets_NT = ranked_targets(model, x_NCHW, self.targets)
        if targets_NT.shape[1] < 3:
            raise ConfigError("apgd-t: the targeted DLR loss needs at least 4 classes", "use --attacks pgd-100,cw-100")
        return targets_NT


@dataclass
class _State:
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

    def keep(self, mask_R: Tensor) -> None:
        """Let go of the rows where `mask_R` is False."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name)[mask_R])


class _Ascent:
    """One APGD run over a set of rows."""

    def __init__(
        self, attack: APGD, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rows: Rows
    ) -> None:
        self.attack, self.model, self.threat = attack, model, threat
        self.x_NCHW, self.y_N = x_NCHW, y_N
        self.broken_owner, self.broken_x = rows.owner_R[:0], x_NCHW[:0]
        self.iteration, self.since_check = 0, 0
        self.window = max(int(FIRST_CHECKPOINT * attack.steps), 1)
        start = rows.start_RCHW
        zeros_R = torch.zeros(len(start), device=start.device)
        self.s = _State(
            owner=rows.owner_R,
            target=rows.target_R,
            x_adv=start,
            x_before=start,
            gradient=start,
            x_best=start,
            gradient_best=start,
            loss_best=zeros_R - torch.inf,
            loss_best_at_check=zeros_R,
            loss_before=zeros_R,  # the published code compares the first loss with 0
            rises=zeros_R.clone(),
            halved=torch.ones_like(zeros_R, dtype=torch.bool),
            step=(zeros_R + 2.0 * threat.eps)[:, None, None, None],
        )
        self._gather()

    def run(self, journal: Journal) -> tuple[Tensor, Tensor]:
        """(indices of the broken images, an adversarial image for each)."""
        if not self._resumed(journal):
            s = self.s
            s.loss_best_at_check = s.loss_best = self._look()
            s.gradient_best = s.gradient
        while self.iteration < self.attack.steps and len(self.s.owner):
            self._move(MOMENTUM if self.iteration > 0 else 1.0)
            self._remember(self._look())
            self.iteration += 1
            self.since_check += 1
            if self.since_check == self.window:
                self._check(self.window)
                self.since_check, self.window = 0, self._next_window()
            journal.keep(self._place)
        return self.broken_owner, self.broken_x

    def _next_window(self) -> int:
        steps = self.attack.steps
        return max(self.window - max(int(SHORTER * steps), 1), max(int(SHORTEST * steps), 1))

    def _place(self) -> Place:
        counters = torch.tensor([self.iteration, self.since_check, self.window])
        broken = {"broken_owner": self.broken_owner, "broken_x": self.broken_x}
        return vars(self.s) | broken | {"counters": counters}

    def _resumed(self, journal: Journal) -> bool:
        """Whether `journal` knew a place to go on from; if so this run stands there."""
        place = journal.recall()
        if place is None:
            return False
        on = {key: value.to(self.x_NCHW.device) for key, value in place.items()}
        self.iteration, self.since_check, self.window = on.pop("counters").tolist()
        self.broken_owner, self.broken_x = on.pop("broken_owner"), on.pop("broken_x")
        self.s = _State(**on)
        self._gather()
        return True

    def _gather(self) -> None:
        """The image and the label of each row."""
        self.x, self.y = self.x_NCHW[self.s.owner], self.y_N[self.s.owner]

    def _move(self, a: float) -> None:
        """One step of algorithm 1: projected ascent, then momentum, projected again."""
        s = self.s
        drift = s.x_adv - s.x_before
        s.x_before = s.x_adv
        z = self.threat.project(self.threat.ascend(s.x_adv, s.gradient, s.step), self.x)
        s.x_adv = self.threat.project(s.x_adv + (z - s.x_adv) * a + drift * (1 - a), self.x)

    def _look(self) -> Tensor:
        """Gradient and loss where the rows stand; rows of broken images leave. Returns the losses of the others."""
        s = self.s
        s.gradient, loss_R, logits_RK = ascent_direction(self.model, s.x_adv, self.y, self._loss)
        broken_R = broken(self.model, s.x_adv, self.y, logits_RK)
        if broken_R.any():
            owners, first = first_of_each(s.owner[broken_R])
            self.broken_owner = torch.cat((self.broken_owner, owners))
            self.broken_x = torch.cat((self.broken_x, s.x_adv[broken_R][first]))
            stays_R = ~torch.isin(s.owner, owners)
            s.keep(stays_R)
            self._gather()
            loss_R = loss_R[stays_R]
        return loss_R

    def _loss(self, logits_RK: Tensor, y_R: Tensor) -> Tensor:
        return self.attack.loss(logits_RK, y_R, self.s.target)

    def _remember(self, loss_R: Tensor) -> None:
        s = self.s
        s.rises = s.rises + (loss_R > s.loss_before)
        s.loss_before = loss_R
        better_R = loss_R > s.loss_best
        better_R111 = better_R[:, None, None, None]
        s.x_best = torch.where(better_R111, s.x_adv, s.x_best)
        s.gradient_best = torch.where(better_R111, s.gradient, s.gradient_best)
        s.loss_best = torch.where(better_R, loss_R, s.loss_best)

    def _check(self, window: int) -> None:
        """Conditions 1 and 2 of section 3.2: halve the step and return to the best point where either holds."""
        s = self.s
        too_few_rises = s.rises <= window * self.attack.rho
        nothing_gained = ~s.halved & (s.loss_best_at_check >= s.loss_best)
        s.halved = too_few_rises | nothing_gained
        s.loss_best_at_check = s.loss_best
        s.rises = torch.zeros_like(s.rises)
        halved_R111 = s.halved[:, None, None, None]
        s.step = torch.where(halved_R111, s.step / 2, s.step)
        s.x_adv = torch.where(halved_R111, s.x_best, s.x_adv)
        s.gradient = torch.where(halved_R111, s.gradient_best, s.gradient)


@ATTACKS.register("apgd-ce")
@dataclass(frozen=True)
class APGDCE(APGD):
    """APGD on the cross-entropy (Croce & Hein 2020)."""

    id: ClassVar[str] = "apgd-ce"

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        return cross_entropy(logits_RK, y_R)


@ATTACKS.register("apgd-dlr")
@dataclass(frozen=True)
class APGDDLR(APGD):
    """APGD on the difference of logits ratio (Croce & Hein 2020)."""

    id: ClassVar[str] = "apgd-dlr"

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        return dlr(logits_RK, y_R)


@ATTACKS.register("apgd-t")
@dataclass(frozen=True)
class APGDT(APGD):
    """APGD on the targeted difference of logits ratio, 9 target classes (Croce & Hein 2020)."""

    id: ClassVar[str] = "apgd-t"
    targeted: ClassVar[bool] = True

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        return targeted_dlr(logits_RK, y_R, target_R)
