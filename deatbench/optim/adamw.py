"""AdamW, as in torch: Adam whose weight decay is no part of the gradient.

Loshchilov, Hutter 2019, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from deatbench.optim.base import OPTIMIZERS


@OPTIMIZERS.register("adamw")
def adamw(
    params: Iterable[nn.Parameter],
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay; fused into one kernel, which on CUDA reads lr and its step count there."""
    params = list(params)
    on_cuda = all(p.is_cuda for p in params)
    optimizer = torch.optim.AdamW(
        params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True, capturable=on_cuda
    )
    # Some steps run before a graph is captured; torch would warn of each optimizer that is ready for a graph and waits.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer
