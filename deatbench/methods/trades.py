"""TRADES: clean cross-entropy plus beta times the divergence between clean and adversarial predictions.

Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan 2019, "Theoretically Principled Trade-off between Robustness and Accuracy"
(arXiv 1901.08573), equation 5:  CE(f(x), y) + beta · max_{x'} KL(f(x) ‖ f(x')), the inner maximum over the KL term from
a Gaussian start of standard deviation 0.001.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.attacks.gradient_ascent import ascend
from deatbench.errors import ConfigError
from deatbench.methods.base import METHODS, Batch, Inner, Losses, Method

START_STD = 0.001


@METHODS.register("trades")
@dataclass(frozen=True)
class TRADES(Method):
    """TRADES: clean cross-entropy + beta·KL(clean ‖ adversarial) (Zhang et al. 2019).

    Args:
        beta: weight of the robust term, >= 0 (published: 6.0).
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ConfigError(f"trades: beta must be at least 0, not {self.beta}")

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        x_NCHW = batch.x_NCHW
        with torch.no_grad():
            clean_NK = F.log_softmax(model(x_NCHW), dim=1)

        def divergence(logits_NK: Tensor, y_N: Tensor) -> Tensor:
            return F.kl_div(F.log_softmax(logits_NK, dim=1), clean_NK, reduction="none", log_target=True).sum(1)

        start = x_NCHW + START_STD * batch.rng.normal(x_NCHW)
        return ascend(model, start, x_NCHW, batch.y_N, inner.threat, divergence, inner.steps, inner.rel_step)

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        clean_NK, adv_NK = model(batch.x_NCHW), model(x_adv_NCHW)
        robust = F.kl_div(F.log_softmax(adv_NK, 1), F.log_softmax(clean_NK, 1), reduction="batchmean", log_target=True)
        return Losses(batch.cross_entropy(clean_NK) + self.beta * robust, clean_NK, adv_NK)

    def passes(self, inner: Inner) -> float:
        return 1.0 + 2.0 * inner.steps + 6.0
