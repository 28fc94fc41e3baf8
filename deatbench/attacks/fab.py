"""FAB: a minimum-norm attack that walks along the decision boundary. Here its targeted form, FAB-T, and the walk.

Croce, Hein 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack" (arXiv 1907.02044),
algorithm 1: project the iterate and the image onto the linearised boundary, step to a mixture of both (alpha_max 0.1,
overshoot eta 1.05), and step back toward the image (beta 0.9) whenever the iterate is adversarial.

Ours differs from the published code in cost: where iterates are seldom adversarial one forward pass serves both for
label and gradient, an image leaves as soon as an adversarial point within eps is known, all target classes fill one
batch, and the projection needs no sort (threats: `to_hyperplane`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS, Attack
from deatbench.attacks.gradient import ascent_direction, broken, margin_to
from deatbench.attacks.journal import FORGETFUL, Journal, Place
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import Rows, in_cache, per_row, ranked_targets
from deatbench.threats import ThreatModel


@dataclass(frozen=True)
class FAB(Attack):
    """What both forms share; they differ in the boundary that they walk along.

    Args:
        steps: iterations (published: 100).
        alpha_max: largest pull toward the image's own projection.
        eta: overshoot beyond the boundary, >= 1.
        beta: what is left of the perturbation after a step back, in (0, 1).
    """

    labels_first: ClassVar[bool] = False

    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    @abstractmethod
    def linearise(
        self, model: nn.Module, z_RCHW: Tensor, y_R: Tensor, target_R: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient and value (> 0: crossed) of the boundary's function, and the logits, at each row."""


@ATTACKS.register("fab-t")
@dataclass(frozen=True)
class FABT(FAB):
    """Targeted FAB: minimum-norm attack along the decision boundary, 9 target classes (Croce & Hein 2020).

    Args:
        targets: number of target classes (published: 9), capped at K - 1.
    """

    targets: int = 9

    @property
    def name(self) -> str:
        return "fab-t"

    def rows(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1)

    def passes(self, num_classes: int) -> int:
        return self.rows(num_classes) * (2 * self.steps + 1)

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        """Adversarial images within eps where they were found, the images themselves elsewhere."""
        targets_NT = ranked_targets(model, x_NCHW, self.targets)
        images = torch.arange(len(x_NCHW), device=x_NCHW.device)
        rows = Rows.stack(images, targets_NT, [x_NCHW] * targets_NT.shape[1])
        return Walk(self, model, x_NCHW, y_N, threat, rows).run(journal)

    def params(self, num_classes: int = 10) -> dict[str, Any]:
        return super().params() | {"targets": self.rows(num_classes)}

    def linearise(
        self, model: nn.Module, z_RCHW: Tensor, y_R: Tensor, target_R: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z_target - z_y."""
        return ascent_direction(model, z_RCHW, y_R, lambda logits_RK, y_R: margin_to(logits_RK, y_R, target_R))


class Walk:
    """Algorithm 1 over a set of rows. `often`: most iterates were adversarial last time, so labels come first."""

    def __init__(
        self, attack: FAB, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rows: Rows
    ) -> None:
        self.attack, self.model, self.threat = attack, model, threat
        self.x_NCHW, self.y_N = x_NCHW, y_N
        self.found_NCHW = x_NCHW.clone()
        self.iteration, self.often = 0, attack.labels_first
        self.owner, self.target, self.z = rows.owner_R, rows.target_R, rows.start_RCHW
        self.gradient = self.gap = self.z
        self._gather()

    def run(self, journal: Journal) -> Tensor:
        """The image within eps that was found for each image, else the image itself."""
        if not self._resumed(journal):
            self.gradient, self.gap, _ = self._linearised()
        while self.iteration < self.attack.steps and len(self.owner):
            self._iterate()
            self.iteration += 1
            journal.keep(self._place)
        return self.found_NCHW

    def _iterate(self) -> None:
        self.z = in_cache(self._step, self.z, self.x, self.gradient, self.gap)
        if self.often:
            with torch.no_grad():
                logits = self.model(self.z)
        else:
            self.gradient, self.gap, logits = self._linearised()
        crossed = self._let_go(logits)
        if len(self.owner) == 0:
            return
        x = self.x[crossed]
        self.z[crossed] = x + (self.z[crossed] - x) * self.attack.beta
        if self.often:
            self.gradient, self.gap, _ = self._linearised()
        elif len(crossed):
            self.gradient[crossed], self.gap[crossed] = self._linearised(crossed)[:2]
        self.often = self.attack.labels_first or 2 * len(crossed) > len(self.owner)

    def _linearised(self, rows: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        return self.attack.linearise(self.model, self.z[rows], self.y[rows], self.target[rows], self.threat)

    def _let_go(self, logits: Tensor) -> Tensor:
        """Images with a row within eps that is adversarial indeed leave; returns the adversarial among those that stay.

        Iterates hover at the boundary all the time: only where it would count is the exact network asked.
        """
        adversarial = logits.argmax(1) != self.y
        within = adversarial & (self.threat.distance(self.z, self.x) <= self.threat.eps)
        on, (adversarial, within) = within.device, torch.stack((adversarial, within)).cpu()  # one wait for both
        rows = torch.nonzero(within)[:, 0].to(on)
        if len(rows):
            rows = rows[broken(self.model, self.z[rows], self.y[rows], logits[rows])]
        if len(rows):
            self.found_NCHW[self.owner[rows]] = self.z[rows]
            stays = ~torch.isin(self.owner, self.owner[rows])
            stay, adversarial = torch.nonzero(stays)[:, 0], adversarial[stays.cpu()]
            for name in ("owner", "target", "z", "gradient", "gap"):
                setattr(self, name, getattr(self, name)[stay])
            self._gather()
        return torch.nonzero(adversarial)[:, 0].to(on)

    def _gather(self) -> None:
        """The image and the label of each row."""
        self.x, self.y = self.x_NCHW[self.owner], self.y_N[self.owner]

    def _place(self) -> Place:
        names = ("owner", "target", "z", "gradient", "gap", "found_NCHW")
        return {name: getattr(self, name) for name in names} | {"counters": torch.tensor([self.iteration, self.often])}

    def _resumed(self, journal: Journal) -> bool:
        place = journal.recall()
        if place is None:
            return False
        for name, value in place.items():
            if name != "counters":
                setattr(self, name, value.to(self.x_NCHW.device))
        self.iteration, self.often = int(place["counters"][0]), bool(place["counters"][1])
        self._gather()
        return True

    def _step(self, z: Tensor, x: Tensor, gradient: Tensor, gap: Tensor) -> Tensor:
        """Project iterate and image onto the linearised boundary and go to the overshot mixture of both."""
        w = gradient.flatten(1)
        b = (w * z.flatten(1)).sum(1) - gap
        moves = self.threat.to_hyperplane(torch.cat((z, x)).flatten(1), torch.cat((w, w)), torch.cat((b, b)))
        from_z_R, from_x_R = self.threat.distance(moves, torch.zeros_like(moves)).clamp_min(1e-8).view(2, -1)
        pull = per_row((from_z_R / (from_z_R + from_x_R)).clamp(0.0, self.attack.alpha_max), z)
        from_z, from_x = moves.mul_(self.attack.eta).view(2, *z.shape)
        from_z.add_(z).mul_(1 - pull)
        from_x.add_(x).mul_(pull)
        return from_z.add_(from_x).clamp_(0.0, 1.0)
