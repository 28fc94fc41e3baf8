"""Fast adversarial training: one step of the gradient's sign from a random point of the ball.

Wong, Rice, Kolter 2020, "Fast is better than free: Revisiting adversarial training" (arXiv 2001.03994), Algorithm 3:
delta uniform in the ball, one step of alpha = 1.25 eps, projected. The published code takes that gradient with batch
norm in training mode, so that the attack's images enter its statistics; here `attack.bn_mode` decides. `attack.steps`,
`rel_step` and `random_start` are those of the PGD that validates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deatbench.attacks.gradient_ascent import ascend
from deatbench.errors import ConfigError
from deatbench.methods.base import METHODS, Batch, Inner
from deatbench.methods.pgd_at import PGDAT


@METHODS.register("fgsm-rs")
@dataclass(frozen=True)
class FGSMRS(PGDAT):
    """Fast adversarial training: FGSM from a random start (Wong et al. 2020).

    Args:
        alpha: length of the step in units of eps, > 0 (published: 1.25).
    """

    alpha: float = 1.25

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ConfigError(f"fgsm-rs: alpha must be greater than 0, not {self.alpha}")

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        x_NCHW, threat = batch.x_NCHW, inner.threat
        start = threat.random_start(x_NCHW, batch.rng)
        return ascend(model, start, x_NCHW, batch.y_N, threat, batch.label_loss, steps=1, rel_step=self.alpha)

    def passes(self, inner: Inner) -> float:
        return 2.0 + 3.0
