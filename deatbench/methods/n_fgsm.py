"""N-FGSM: one step of the gradient's sign from strong noise, and no way back into the ball.

de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania 2022, "Make Some Noise: Reliable and Efficient Single-Step
Adversarial Training" (arXiv 2202.01181), Algorithm 1: noise uniform in k eps, a step of alpha from there, cut to
[0, 1] only. Under other norms the noise is a random point of a ball k times as large. The published code takes the
gradient with batch norm in training mode; here `attack.bn_mode` decides. `attack.steps`, `rel_step` and `random_start`
are those of the PGD that validates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deatbench.attacks.gradient import input_gradient
from deatbench.errors import ConfigError
from deatbench.methods.base import METHODS, Batch, Inner
from deatbench.methods.pgd_at import PGDAT


@METHODS.register("n-fgsm")
@dataclass(frozen=True)
class NFGSM(PGDAT):
    """N-FGSM: FGSM from noise beyond the ball, not projected (de Jorge et al. 2022).

    Args:
        k: radius of the noise in units of eps, >= 0 (published: 2; 0 is FGSM).
        alpha: length of the step in units of eps, > 0 (published: 1).
    """

    k: float = 2.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 0 or not self.alpha > 0:
            raise ConfigError(f"n-fgsm: k must be at least 0 and alpha greater than 0, not {self.k} and {self.alpha}")

    @property
    def reach(self) -> float:
        return self.k + self.alpha

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        threat = inner.threat
        noisy_NCHW = threat.scaled(self.k).random_start(batch.x_NCHW, batch.rng)
        gradient = input_gradient(model, noisy_NCHW, batch.y_N, batch.label_loss)
        return threat.ascend(noisy_NCHW, gradient, self.alpha * threat.eps).clamp_(0.0, 1.0)

    def passes(self, inner: Inner) -> float:
        return 2.0 + 3.0
