"""Functions that bring their own derivative: a result and its *pull*, which takes a gradient of it back.

The pull computes the product of a vector with the function's Jacobian (vector-Jacobian product, VJP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pull = Callable[[Tensor], Tensor]  # gradient of the result -> gradient of what it was made from


def differentiable(vjp: Callable[[Tensor], tuple[Tensor, Pull]], x: Tensor) -> Tensor:
    """The result of `vjp`, which autograd takes for one function of `x` that can be differentiated once."""
    if not torch.is_grad_enabled():
        return vjp(x)[0]
    result: Tensor = _Once.apply(x, vjp)
    return result


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, vjp: Callable[[Tensor], tuple[Tensor, Pull]]) -> Tensor:
        result, ctx.pull = vjp(x)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.pull(gradient), None
