"""Batch norm over a batch whose rows lie in several processes, as if they lay in one.

torch.nn.SyncBatchNorm does this on GPUs only, replaces modules, and cannot be differentiated twice. This works on
any device and any module that calls torch.nn.functional.batch_norm, and leaves the network as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SharedBatchNorm(TorchFunctionMode):
    """While it is entered, batch norm in training mode takes mean and variance over the rows of all processes.

    All must hold equally many rows and pass them through the same layers in the same order. Outputs and gradients of
    any order, and running statistics on every process, are those of the whole batch up to rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.batch_norm; statistics and products in float32 where the input is shorter."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    mean_C, var_C = _moments(x)
    if running_mean is not None and running_var is not None:
        n = dist.get_world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((var_C * (n / max(n - 1, 1))).to(running_var.dtype), momentum)
    scale_C = (var_C + eps).rsqrt()
    scale_C = scale_C if weight is None else scale_C * weight
    shape = (1, -1) + (1,) * (x.ndim - 2)
    centred = x - mean_C.view(shape)
    y = centred * scale_C.view(shape) if bias is None else torch.addcmul(bias.view(shape), centred, scale_C.view(shape))
    return y.to(input.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance of each channel over all processes, differentiable, without cancellation.

    Every process adds its own moments to a row of zeros: one small exchange tells all of them everybody's.
    """
    var_C, mean_C = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    mine_2C = torch.stack((mean_C, var_C))
    nothing_2C = torch.zeros_like(mine_2C)
    rank, world = dist.get_rank(), dist.get_world_size()
    everybodys_P2C = _Sum.apply(torch.stack([mine_2C if rank == p else nothing_2C for p in range(world)]))
    means_PC, vars_PC = everybodys_P2C.unbind(1)
    mean_C = means_PC.mean(0)
    return mean_C, (vars_PC + (means_PC - mean_C).square()).mean(0)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, since each of them uses it. Differentiable again and again."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())
