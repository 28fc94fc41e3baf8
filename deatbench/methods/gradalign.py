"""GradAlign: FGSM training that keeps the input gradient's direction constant within the ball.

Andriushchenko, Flammarion 2020, "Understanding and Improving Fast Adversarial Training" (arXiv 2007.02617),
equation 4:  CE(f(x'), y) + lambda · E[1 − cos(grad_x l(x, y), grad_x l(x + eta, y))], x' by one step of eps from x
itself, eta uniform in the ball. The regulariser is differentiated through both gradients, which takes a second
backward pass through each.

The published code computes all gradients with batch norm in training mode, as `loss` does here (the attack's mode is
`attack.bn_mode`), treats the gradient at x as a constant (`detach`), averages over the images where neither gradient
is zero, and does not cut x + eta to [0, 1], as is done here. Under label smoothing l stays the plain cross-entropy,
which FGSM ascends. `attack.steps`, `rel_step` and `random_start` are those of the PGD that validates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient_ascent import ascend
from deatbench.errors import ConfigError
from deatbench.methods.base import METHODS, Batch, Inner, Losses
from deatbench.methods.pgd_at import PGDAT

VANISHING = 1e-12  # length of a gradient that has no direction


@METHODS.register("gradalign")
@dataclass(frozen=True)
class GradAlign(PGDAT):
    """GradAlign: FGSM with aligned input gradients (Andriushchenko & Flammarion 2020).

    Args:
        lam: weight of the regulariser, >= 0; 0 is FGSM training. Published for CIFAR-10: 0.2 at 8/255 and ten times
            as much for every 8/255 more (0.063 at 4/255, 2 at 16/255).
        detach: take the gradient at x for a constant, as the published code does; a third less time.
    """

    lam: float = 0.2
    detach: bool = False

    def __post_init__(self) -> None:
        if self.lam < 0:
            raise ConfigError(f"gradalign: lam must be at least 0, not {self.lam}")

    def memory(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """x + eta, on its way from `perturb`, which knows the ball, to `loss`."""
        return {"noisy": torch.zeros_like(x_NCHW)}

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        x_NCHW, threat = batch.x_NCHW, inner.threat
        batch.memory["noisy"].copy_(threat.random_start(x_NCHW, batch.rng))
        return ascend(model, x_NCHW, x_NCHW, batch.y_N, threat, batch.label_loss, steps=1, rel_step=1.0)

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        plain = super().loss(model, batch, x_adv_NCHW)
        if self.lam == 0:
            return plain
        at_x, clean_NK = _gradient(model, batch, batch.x_NCHW, differentiable=not self.detach)
        at_noisy, _ = _gradient(model, batch, batch.memory["noisy"], differentiable=True)
        penalty = self.lam * misalignment(at_x, at_noisy, batch.average)
        return Losses(plain.loss + penalty, clean_NK, plain.adv_logits_NK)

    def passes(self, inner: Inner) -> float:
        """FGSM and loss as ever; a gradient that is differentiated again costs 2 and the backward pass through it 4.

        That counts convolutions; on CPUs batch norm's second derivative nearly doubles the time.
        """
        if self.lam == 0:
            return 2.0 + 3.0
        return 2.0 + 3.0 + (2.0 if self.detach else 6.0) + 6.0


def _gradient(model: nn.Module, batch: Batch, x_NCHW: Tensor, *, differentiable: bool) -> tuple[Tensor, Tensor]:
    """(each image's loss differentiated by the image, logits); the first may stay a function of the weights."""
    x = x_NCHW.detach().requires_grad_(True)
    logits_NK = model(x)
    total = batch.label_loss(logits_NK, batch.y_N).sum()
    (gradient,) = torch.autograd.grad(total, x, create_graph=differentiable)
    return gradient, logits_NK.detach()


def misalignment(
    a_NCHW: Tensor, b_NCHW: Tensor, average: Callable[[Sequence[Tensor]], None] = lambda tensors: None
) -> Tensor:
    """1 − cos(a, b), averaged over the images where both have a direction; 0 if there are none.

    Where these are some rows of a batch, `average` is the batch's, as in Batch.
    """
    a_ND, b_ND = a_NCHW.flatten(1), b_NCHW.flatten(1)
    a_N1, b_N1 = (torch.linalg.vector_norm(g_ND, dim=1, keepdim=True) for g_ND in (a_ND, b_ND))
    counts_N = ((a_N1 > VANISHING) & (b_N1 > VANISHING))[:, 0]
    cosine_N = (a_ND / a_N1.clamp_min(VANISHING) * (b_ND / b_N1.clamp_min(VANISHING))).sum(1)
    count = counts_N.sum().to(cosine_N.dtype)
    average([count])
    return torch.where(counts_N, 1 - cosine_N, 0.0).sum() / count.clamp_min(VANISHING)
