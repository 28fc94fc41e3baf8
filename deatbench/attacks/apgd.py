"""APGD: projected gradient ascent that chooses its own step size. APGD-CE, APGD-DLR and targeted APGD-T.

Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(arXiv 2003.01690), algorithm 1 and sections 3.2, 4.1. The ascent: apgd_ascent.py; how
it steps: apgd_steps.py; in L1, apgd_l1.py.

Ours differs from the published code in cost, not in what it computes: an image leaves the batch as soon as it is
broken, and all target classes of all images fill one batch together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.apgd_ascent import Ascent
from deatbench.attacks.apgd_l1 import larger_first, start_outside
from deatbench.attacks.base import ATTACKS, Attack
from deatbench.attacks.gradient import cross_entropy, margin, margin_to
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import Rows, ranked_targets
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel


def dlr(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Difference of logits ratio, shape [N] (equation 6); needs K >= 3."""
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
        eot: passes whose gradients are averaged in each step, for networks that draw random numbers (published: 20);
            loss and label are those of the last pass, as published.
        large_reps: spend the first 60 % of the steps in larger balls (L1 only; published: in the standard suite).
    """

    id: ClassVar[str]
    targeted: ClassVar[bool] = False

    steps: int = 100
    rho: float = 0.75
    restarts: int = 1
    targets: int = 9
    eot: int = 1
    large_reps: bool = False

    @property
    def name(self) -> str:
        return self.id

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        """What is ascended, shape [R]; `target_R` is -1 for the untargeted losses."""
        raise NotImplementedError

    def loss_name(self, num_classes: int) -> str:
        """What stands in the record: which loss is ascended for K classes."""
        raise NotImplementedError

    def check(self, threat: ThreatModel) -> None:
        if self.large_reps and threat.norm != "L1":
            raise ConfigError(f"{self.name}: larger radii first are for L1, not {threat.norm}")

    def params(self, num_classes: int = 10) -> dict[str, Any]:
        """The hyper-parameters for K classes, with the name of the loss."""
        given = super().params() | {"loss": self.loss_name(num_classes), "targets": self.rows(num_classes)}
        return given if self.targeted else {name: value for name, value in given.items() if name != "targets"}

    def stages(self) -> tuple[tuple[float, int], ...]:
        """(radius in units of eps, steps) of each part of the search."""
        return larger_first(self.steps) if self.large_reps else ((1.0, self.steps),)

    @property
    def runs(self) -> int:
        return self.restarts

    def rows(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1) if self.targeted else 1

    def passes(self, num_classes: int) -> int:
        return self.rows(num_classes) * self.eot * (self.steps + len(self.stages()))

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
        journal = journal if rng.per_image else FORGETFUL  # a place is one ascent's; published draws make many
        for columns in rng.columns(targets_NT.shape[1]):
            images = torch.nonzero(standing_N)[:, 0]
            starts = [self._start(x_NCHW[images], threat, rng) for _ in columns]
            rows = Rows.stack(images, targets_NT[images][:, columns], starts)
            owner, found = Ascent(self, model, x_NCHW, y_N, threat, rows).run(journal)
            x_adv_NCHW[owner] = found
            standing_N[owner] = False
        return x_adv_NCHW

    def _start(self, x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        self.check(threat)
        return start_outside(x_NCHW, threat, rng) if self.large_reps else threat.boundary_start(x_NCHW, rng)

    def _targets(self, model: nn.Module, x_NCHW: Tensor) -> Tensor:
        """Target classes of each image, [N, T]; one column of -1 for the untargeted losses."""
        if not self.targeted:
            return torch.full((len(x_NCHW), 1), -1, device=x_NCHW.device)
        return ranked_targets(model, x_NCHW, self.targets)


@ATTACKS.register("apgd-ce")
@dataclass(frozen=True)
class APGDCE(APGD):
    """APGD on the cross-entropy (Croce & Hein 2020)."""

    id: ClassVar[str] = "apgd-ce"

    def loss_name(self, num_classes: int) -> str:
        return "ce"

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        return cross_entropy(logits_RK, y_R)


@ATTACKS.register("apgd-dlr")
@dataclass(frozen=True)
class APGDDLR(APGD):
    """APGD on the difference of logits ratio (Croce & Hein 2020).

    The ratio divides by the gap between the first and the third logit. With 2 classes there is no third: the loss is
    the difference alone, and the record says `margin`.
    """

    id: ClassVar[str] = "apgd-dlr"

    def loss_name(self, num_classes: int) -> str:
        return "dlr" if num_classes >= 3 else "margin"

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        return dlr(logits_RK, y_R) if logits_RK.shape[1] >= 3 else margin(logits_RK, y_R)


@ATTACKS.register("apgd-t")
@dataclass(frozen=True)
class APGDT(APGD):
    """APGD on the targeted difference of logits ratio, 9 target classes (Croce & Hein 2020).

    The ratio divides by a gap that takes four logits. With 2 or 3 classes the loss is the difference alone, target over
    right, and the record says `margin-targeted`.
    """

    id: ClassVar[str] = "apgd-t"
    targeted: ClassVar[bool] = True

    def loss_name(self, num_classes: int) -> str:
        return "dlr-targeted" if num_classes >= 4 else "margin-targeted"

    def loss(self, logits_RK: Tensor, y_R: Tensor, target_R: Tensor) -> Tensor:
        if logits_RK.shape[1] < 4:
            return margin_to(logits_RK, y_R, target_R)
        return targeted_dlr(logits_RK, y_R, target_R)
