"""DEAT's update: two interleaved momenta whose difference raises the diffusion of SGD.

Sun, Sinha, Zhang, "Enhance Diffusion to Improve Robust Generalization", KDD 2023 (arXiv 2306.02618), Algorithm 2:

    h_t     = k2 · h_{t-2} + (1 - k2) · g_t
    theta  <- theta - lr · [(1 + k1) · h_t - k1 · h_{t-1}] / sqrt((1 + k1)² + k1²)

The authors' released code is the positive-negative momentum optimizer (Xie et al. 2021, arXiv 2103.17243): the same
with k2 = beta1² = 0.81 and decoupled weight decay. Both are reached from here: `k2` and `decoupled`. Two special
cases: k1 = 1, k2 = 0, normalize off is optimistic gradient descent; k1 = 0 is an exponential average of every second
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deatbench.errors import ConfigError
from deatbench.optim.base import OPTIMIZERS


@OPTIMIZERS.register("deat")
class DEAT(torch.optim.Optimizer):
    """DEAT's update: two interleaved momenta, one of them negative (Sun et al., KDD 2023).

    Args:
        params: parameters or parameter groups.
        lr: step size (alpha in the paper), >= 0.
        k1: weight of the negative momentum, >= 0 (paper: 1.0).
        k2: decay of each of the two momenta, in [0, 1) (paper: 0.8; released code: 0.81).
        normalize: divide by sqrt((1 + k1)² + k1²), as the paper and the released code do.
        weight_decay: L2 coefficient, >= 0.
        decoupled: shrink the weights by (1 - lr · weight_decay) before the step, as the released code does, instead
            of adding weight_decay · theta to the gradient, as the paper's formula reads.
    """

    capturable = True  # no step waits for the device or moves its state

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.1,
        k1: float = 1.0,
        k2: float = 0.8,
        normalize: bool = True,
        weight_decay: float = 5e-4,
        decoupled: bool = False,
    ) -> None:
        if lr < 0 or k1 < 0 or not 0 <= k2 < 1 or weight_decay < 0:
            given = f"{lr=} {k1=} {k2=} {weight_decay=}"
            raise ConfigError(f"deat needs lr, k1, weight_decay >= 0 and 0 <= k2 < 1, got {given}")
        defaults = {
            "lr": lr, "k1": k1, "k2": k2, "normalize": normalize, "weight_decay": weight_decay, "decoupled": decoupled
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. `closure`, if given, recomputes the loss with gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        lr, k1 = group["lr"], group["k1"]
        if group["weight_decay"] and group["decoupled"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        elif group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
        before_last = [self._momenta(p)[0] for p in params]
        last = [self._momenta(p)[1] for p in params]
        current = torch._foreach_lerp(before_last, gradients, 1 - group["k2"])

        scale = ((1 + k1) ** 2 + k1**2) ** 0.5 if group["normalize"] else 1.0
        update = torch._foreach_mul(current, (1 + k1) / scale)
        torch._foreach_add_(update, last, alpha=-k1 / scale)
        torch._foreach_mul_(update, lr)  # lr may be a tensor: a captured graph reads its value anew
        torch._foreach_sub_(params, update)
        torch._foreach_copy_(before_last, last)  # at fixed addresses, for the same reason
        torch._foreach_copy_(last, current)

    @torch.no_grad()
    def shifts(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter theta_t with the way to its shifted point, lr / sqrt((1 + k1)² + k1²) · k1 · h_{t-1}.

        At the shifted point phi the update reads phi <- phi - lr' · h_t: plain averaging of gradients that are taken
        at theta, away from phi.
        """
        found = []
        for group in self.param_groups:
            k1 = group["k1"]
            scale = ((1 + k1) ** 2 + k1**2) ** 0.5 if group["normalize"] else 1.0
            found += [(p, self._momenta(p)[1] * (group["lr"] * k1 / scale)) for p in group["params"]]
        return found

    def _momenta(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """(h_{t-2}, h_{t-1}), zero at the start."""
        state = self.state[p]
        if not state:
            state["h_before_last"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["h_last"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state["h_before_last"], state["h_last"]
