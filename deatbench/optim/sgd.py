"""SGD with momentum, as in torch: the baseline of adversarial training.

momentum 0 and 0.9 are different baselines: DEAT's published PGD-AT numbers behave like 0, the field's like 0.9.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from deatbench.optim.base import OPTIMIZERS


@OPTIMIZERS.register("sgd")
def sgd(
    params: Iterable[nn.Parameter],
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
) -> torch.optim.Optimizer:
    """SGD with momentum and coupled weight decay; on CUDA fused into one kernel, which takes lr as a tensor."""
    params = list(params)
    fused = all(isinstance(p, torch.Tensor) and p.is_cuda for p in params)
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused, foreach=not fused
    )
