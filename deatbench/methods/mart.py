"""MART: adversarial training that weighs each image by how badly its clean form is classified.

Wang, Zou, Yi, Bailey, Ma, Gu, "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020:
the surrogate of the risk in equation 7. With p the probabilities of an image x, q those of its adversarial form x', and
k the most probable of the wrong classes of x':

    BCE(x') + beta · KL(p ‖ q) · (1 - p_y),      BCE(x') = -log q_y - log(1 - q_k)

x' maximises the cross-entropy, as in PGD-AT. Paper and released code agree that both forms of an image pass the network
in training mode and that nothing is detached: p and the weight 1 - p_y are trained too. The code keeps its logarithms
finite by constants: it takes log(1.0001 - q_k), so that beyond a confidence of about 0.999 in a wrong class this term
stops pulling. Here the logarithms are the paper's, through log-softmax. PGD starts where `attack.random_start` says; in
the code at Gaussian noise of 0.001.

Label smoothing acts on -log q_y, which is a cross-entropy; the other terms have no target distribution to smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.errors import ConfigError
from deatbench.methods.base import METHODS, Batch, Inner, Losses
from deatbench.methods.pgd_at import PGDAT


@METHODS.register("mart")
@dataclass(frozen=True)
class MART(PGDAT):
    """MART: boosted cross-entropy + beta·KL, weighted by how wrong the clean image is (Wang et al. 2020).

    Args:
        beta: weight of the divergence, >= 0 (lambda in the paper: 5.0; the released WideResNet training: 6.0).
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ConfigError(f"mart: beta must be at least 0, not {self.beta}")

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        clean_NK, adv_NK = model(batch.x_NCHW), model(x_adv_NCHW)
        log_p_NK, log_q_NK = F.log_softmax(clean_NK, dim=1), F.log_softmax(adv_NK, dim=1)
        divergence_N = F.kl_div(log_q_NK, log_p_NK, reduction="none", log_target=True).sum(1)

        def beyond_cross_entropy(y_N: Tensor) -> Tensor:
            doubt_N = -torch.expm1(log_p_NK.gather(1, y_N[:, None])[:, 0])  # 1 - p_y
            return boost(log_q_NK, y_N) + self.beta * doubt_N * divergence_N

        return Losses(batch.cross_entropy(adv_NK) + batch.mean(beyond_cross_entropy), clean_NK, adv_NK)

    def passes(self, inner: Inner) -> float:
        return 2.0 * inner.steps + 6.0


def boost(log_q_NK: Tensor, y_N: Tensor) -> Tensor:
    """-log(1 - q_k) for the most probable wrong class k, shape [N]; 1 - q_k is summed from all the other classes."""
    wrong_N1 = log_q_NK.detach().scatter(1, y_N[:, None], float("-inf")).argmax(1, keepdim=True)
    return -log_q_NK.scatter(1, wrong_N1, float("-inf")).logsumexp(1)
