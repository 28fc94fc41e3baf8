"""FAB, untargeted: at each iterate the nearest of the K - 1 linearised decision boundaries.

Croce, Hein 2020 (arXiv 1907.02044), equation 8: among all classes the one whose hyperplane z_c - z_y = 0 is nearest in
the threat's norm, |z_c - z_y| over the dual norm of the gradient of z_c - z_y. The walk is that of fab.py. The first
try begins at the image, further ones at random points half-way to the ball's surface, as in the published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS
from deatbench.attacks.fab import FAB, Walk
from deatbench.attacks.gradient import InterruptedGradient, margin_to
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import Rows, per_row
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel

DUAL = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}  # order of the norm in which gradients are measured


def half_way(x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
    """A random point at half the radius from each image, cut to [0, 1]."""
    noise = 2 * rng.uniform(x_NCHW) - 1 if threat.norm == "Linf" else rng.normal(x_NCHW)
    length = per_row(threat.distance(noise, torch.zeros_like(noise)), x_NCHW)
    return (x_NCHW + threat.eps * noise / length * 0.5).clamp(0.0, 1.0)


@ATTACKS.register("fab")
@dataclass(frozen=True)
class FABUntargeted(FAB):
    """Untargeted FAB: minimum-norm attack along the nearest decision boundary (Croce & Hein 2020).

    Args:
        restarts: tries, each on the survivors; all but the first begin at random points (AutoAttack-plus: 5).
    """

    labels_first: ClassVar[bool] = True  # a pass is cheap beside K - 1 gradients that a step back makes stale

    restarts: int = 1

    @property
    def name(self) -> str:
        return "fab"

    @property
    def runs(self) -> int:
        return self.restarts

    def check(self, threat: ThreatModel) -> None:
        if threat.norm not in DUAL:
            raise ConfigError(f"fab knows the norms {', '.join(DUAL)}, not {threat.norm}")

    def passes(self, num_classes: int) -> int:
        """A step asks for the labels, then for K - 1 gradients from one pass."""
        return 2 * self.steps + 1

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
        images = torch.arange(len(x_NCHW), device=x_NCHW.device)
        start = half_way(x_NCHW, threat, rng) if rng.run else x_NCHW
        rows = Rows.stack(images, torch.full_like(images, -1)[:, None], [start])
        return Walk(self, model, x_NCHW, y_N, threat, rows).run(journal)

    def linearise(
        self, model: nn.Module, z_RCHW: Tensor, y_R: Tensor, target_R: Tensor, threat: ThreatModel
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z_c - z_y for the class c whose boundary is nearest. One gradient at a time is held, not all K - 1."""
        with torch.enable_grad():
            z = z_RCHW.detach().requires_grad_(True)
            logits_RK = model(z)
        if logits_RK.grad_fn is None:
            raise InterruptedGradient
        num_classes = logits_RK.shape[1]
        nearest_R = torch.full_like(logits_RK[:, 0].detach(), torch.inf)
        gradient, gap_R = torch.zeros_like(z_RCHW), torch.zeros_like(nearest_R)
        for step in range(1, num_classes):
            with torch.enable_grad():
                gaps_R = margin_to(logits_RK, y_R, (y_R + step) % num_classes)
            (found,) = torch.autograd.grad(gaps_R.sum(), z, retain_graph=step < num_classes - 1, allow_unused=True)
            if found is None:
                raise InterruptedGradient
            found_R = gaps_R.detach()
            steepness_R = torch.linalg.vector_norm(found.flatten(1), ord=DUAL[threat.norm], dim=1)
            distance_R = found_R.abs() / (steepness_R + 1e-12)
            nearer_R = distance_R < nearest_R
            nearest_R = torch.where(nearer_R, distance_R, nearest_R)
            gap_R = torch.where(nearer_R, found_R, gap_R)
            gradient = torch.where(per_row(nearer_R, z), found, gradient)
        return gradient, gap_R, logits_RK.detach()
