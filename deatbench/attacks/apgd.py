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
from deatbench.attacks.gradient import ascent_direction, cross_entropy
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import ROWS, Rows, ranked_targets
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

    def passes(self, num_classes: int) -> int:
        rows = min(self.targets, num_classes - 1) if self.targeted else 1
        return rows * (self.steps + 1)

    def __call__(self, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        x_adv_NCHW = x_NCHW.clone()
        standing_N = torch.ones(len(x_NCHW), dtype=torch.bool, device=x_NCHW.device)
        targets_NT = self._targets(model, x_NCHW)
        for columns in rng.columns(targets_NT.shape[1]):
            images = torch.nonzero(standing_N)[:, 0]
            starts = [threat.boundary_start(x_NCHW[images], rng) for _ in columns]
            rows = Rows.stack(images, targets_NT[images][:, columns], starts)
            for chunk in rows.chunks(max(len(x_NCHW), ROWS)):
                owner, found = _Ascent(self, model, x_NCHW, y_N, threat, chunk).run()
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
    x: Tensor
    y: Tensor
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
        self.broken: list[tuple[Tensor, Tensor]] = []
        x, start = x_NCHW[rows.owner_R], rows.start_RCHW
        zeros_R = torch.zeros(len(x), device=x.device)
        self.s = _State(
            owner=rows.owner_R,
            target=rows.target_R,
            x=x,
            y=y_N[rows.owner_R],
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

    def run(self) -> tuple[Tensor, Tensor]:
        """(indices of the broken images, an adversarial image for each)."""
        steps, s = self.attack.steps, self.s
        loss_R = self._look()
        s.loss_best_at_check = s.loss_best = loss_R
        s.gradient_best = s.gradient
        window = max(int(FIRST_CHECKPOINT * steps), 1)
        since_check = 0
        for i in range(steps):
            if len(s.owner) == 0:
                break
            self._move(MOMENTUM if i > 0 else 1.0)
            loss_R = self._look()
            self._remember(loss_R)
            since_check += 1
            if since_check == window:
                self._check(window)
                since_check = 0
                window = max(window - max(int(SHORTER * steps), 1), max(int(SHORTEST * steps), 1))
        if not self.broken:
            return s.owner[:0], s.x[:0]
        return torch.cat([owner for owner, _ in self.broken]), torch.cat([found for _, found in self.broken])

    def _move(self, a: float) -> None:
        """One step of algorithm 1: projected ascent, then momentum, projected again."""
        s = self.s
        drift = s.x_adv - s.x_before
        s.x_before = s.x_adv
        z = self.threat.project(self.threat.ascend(s.x_adv, s.gradient, s.step), s.x)
        s.x_adv = self.threat.project(s.x_adv + (z - s.x_adv) * a + drift * (1 - a), s.x)

    def _look(self) -> Tensor:
        """Gradient and loss where the rows stand; rows of broken images leave. Returns the losses of the others."""
        s = self.s
        s.gradient, loss_R, logits_RK = ascent_direction(self.model, s.x_adv, s.y, self._loss)
        broken_R = logits_RK.argmax(1) != s.y
        if broken_R.any():
            owners, first = _first_of_each(s.owner[broken_R])
            self.broken.append((owners, s.x_adv[broken_R][first]))
            stays_R = ~torch.isin(s.owner, owners)
            s.keep(stays_R)
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


def _first_of_each(owner_R: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct owners, position of the first row of each); rows of one owner stand together."""
    owners, counts = torch.unique_consecutive(owner_R, return_counts=True)
    return owners, counts.cumsum(0) - counts


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
