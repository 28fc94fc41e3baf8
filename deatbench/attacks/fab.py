"""FAB: a minimum-norm attack that walks along the decision boundary. FAB-T, its targeted form.

Croce, Hein 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack" (arXiv 1907.02044),
algorithm 1: project the iterate and the image onto the linearised boundary, step to a mixture of both (alpha_max 0.1,
overshoot eta 1.05), and step back toward the image (beta 0.9) whenever the iterate is adversarial.

Ours differs from the published code in cost: where iterates are seldom adversarial one forward pass serves both for
label and gradient, an image leaves as soon as an adversarial point within eps is known, all target classes fill one
batch, and the projection needs no sort (threats: `to_hyperplane`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS, Attack
from deatbench.attacks.gradient import ascent_direction
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import ROWS, Rows, ranked_targets
from deatbench.threats import ThreatModel


@ATTACKS.register("fab-t")
@dataclass(frozen=True)
class FABT(Attack):
    """Targeted FAB: minimum-norm attack along the decision boundary, 9 target classes (Croce & Hein 2020).

    Args:
        steps: iterations (published: 100).
        targets: number of target classes (published: 9), capped at K - 1.
        alpha_max: largest pull toward the image's own projection.
        eta: overshoot beyond the boundary, >= 1.
        beta: what is left of the perturbation after a step back, in (0, 1).
    """

    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    @property
    def name(self) -> str:
        return "fab-t"

    def passes(self, num_classes: int) -> int:
        return min(self.targets, num_classes - 1) * (2 * self.steps + 1)

    def __call__(self, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        """Adversarial images within eps where they were found, the images themselves elsewhere."""
        x_adv_NCHW = x_NCHW.clone()
        targets_NT = ranked_targets(model, x_NCHW, self.targets)
        images = torch.arange(len(x_NCHW), device=x_NCHW.device)
        rows = Rows.stack(images, targets_NT, [x_NCHW] * targets_NT.shape[1])
        for chunk in rows.chunks(max(len(x_NCHW), ROWS)):
            self._walk(model, x_NCHW, y_N, threat, chunk, x_adv_NCHW)
        return x_adv_NCHW

    def _walk(
        self, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rows: Rows, found_NCHW: Tensor
    ) -> None:
        owner, target = rows.owner_R, rows.target_R
        x, y, z = x_NCHW[owner], y_N[owner], rows.start_RCHW
        gradient, gap, _ = _difference(model, z, y, target)
        often = False  # whether most iterates were adversarial last time: then ask for labels before gradients
        for _ in range(self.steps):
            z = self._step(z, x, gradient, gap, threat)
            if often:
                with torch.no_grad():
                    logits = model(z)
            else:
                gradient, gap, logits = _difference(model, z, y, target)
            adversarial = logits.argmax(1) != y
            within = adversarial & (threat.distance(z, x) <= threat.eps)
            if within.any():
                found_NCHW[owner[within]] = z[within]
                stays = ~torch.isin(owner, owner[within])
                owner, target, x, y, z, gradient, gap, adversarial = (
                    part[stays] for part in (owner, target, x, y, z, gradient, gap, adversarial)
                )
            if len(owner) == 0:
                return
            z = torch.where(adversarial[:, None, None, None], x + (z - x) * self.beta, z)
            stale = torch.ones_like(adversarial) if often else adversarial
            if stale.any():
                rows_ = torch.nonzero(stale)[:, 0]
                gradient[rows_], gap[rows_], _ = _difference(model, z[rows_], y[rows_], target[rows_])
            often = 2 * int(adversarial.sum()) > len(owner)

    def _step(self, z: Tensor, x: Tensor, gradient: Tensor, gap: Tensor, threat: ThreatModel) -> Tensor:
        """Project iterate and image onto the linearised boundary and go to the overshot mixture of both."""
        r, shape = len(z), z.shape
        w = gradient.flatten(1)
        b = (w * z.flatten(1)).sum(1) - gap
        moves = threat.to_hyperplane(torch.cat((z, x)).flatten(1), torch.cat((w, w)), torch.cat((b, b)))
        lengths = threat.distance(moves, torch.zeros_like(moves)).clamp_min(1e-8)
        pull = (lengths[:r] / (lengths[:r] + lengths[r:])).clamp(0.0, self.alpha_max)[:, None, None, None]
        from_z, from_x = z + self.eta * moves[:r].view(shape), x + self.eta * moves[r:].view(shape)
        return (from_z * (1 - pull) + from_x * pull).clamp(0.0, 1.0)


def _difference(model: nn.Module, z: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient and value of z_target - z_y, and the logits, at each row."""

    def wanted_over_right(logits_RK: Tensor, y_R: Tensor) -> Tensor:
        return logits_RK.gather(1, target[:, None])[:, 0] - logits_RK.gather(1, y_R[:, None])[:, 0]

    return ascent_direction(model, z, y, wanted_over_right)
