"""AWP: the loss and its gradient are taken where the weights, too, are perturbed for the worse.

Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020 (arXiv 2004.05884), equations
8 to 10. L is the loss of PGD-AT, TRADES or MART on a batch that is attacked already, w_l the weights of one layer:

    v_l = gamma · ‖w_l‖ · ∂L/∂w_l(w) / ‖∂L/∂w_l(w)‖           one step of ascent, to the sphere around w_l
    w  <- w - lr · ∇L(w + v)

As in the released code v moves each parameter with "weight" in its name and more than one dimension (convolutions,
linear layers), and neither biases nor batch norm. Differences from that code:

- It takes the step on a second network, by an SGD of lr 0.01, and normalises the difference of the weights. That lr
  cancels; here the gradient itself is normalised, on the network itself. Its running statistics are put back, so that
  batch norm counts only the passes at w + v.
- It updates at w + v and then subtracts v, so that weight decay acts on w + v; here the old weights come back bit by
  bit and the optimizer, with its weight decay, acts on w.
- With TRADES it begins AWP in epoch 10; here, as with its PGD-AT, AWP begins at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deatbench.errors import ConfigError, UnknownNameError
from deatbench.methods.base import METHODS, Batch, Inner, Losses, Method, Precision
from deatbench.methods.mart import MART
from deatbench.methods.pgd_at import PGDAT
from deatbench.methods.trades import TRADES

TINY = 1e-20  # keeps a layer without gradient where it is
# What can be wrapped, and the forward-equivalents of its loss and backward pass.
WRAPPED: Mapping[str, tuple[type[Method], float]] = MappingProxyType(
    {"pgd-at": (PGDAT, 3.0), "trades": (TRADES, 6.0), "mart": (MART, 6.0)}
)


@METHODS.register("awp")
@dataclass(frozen=True)
class AWP(Method):
    """AWP: PGD-AT, TRADES or MART with adversarially perturbed weights (Wu et al. 2020).

    Args:
        wraps: whose perturbation and loss: pgd-at, trades or mart.
        gamma: length of v relative to the weights', layer by layer, >= 0 (published: 0.005; 0.01 with PGD-AT on
            PreAct ResNet-18).
        beta: the weight in the loss of trades or mart; "auto": their own default.
    """

    wraps: str = "pgd-at"
    gamma: float = 0.005
    beta: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.wraps not in WRAPPED:
            raise UnknownNameError("method for awp to wrap", self.wraps, WRAPPED, f"it wraps {', '.join(WRAPPED)}")
        if self.gamma < 0:
            raise ConfigError(f"awp: gamma must be at least 0, not {self.gamma}")
        if self.wraps == "pgd-at" and self.beta != "auto":
            raise ConfigError(f"awp: pgd-at has no beta, but beta={self.beta}", "wraps=trades or wraps=mart has one")
        self.wrapped  # noqa: B018  its own checks

    @property
    def wrapped(self) -> Method:
        """The method whose loss it is."""
        parameters: dict[str, Any] = {} if self.beta == "auto" else {"beta": self.beta}
        return WRAPPED[self.wraps][0](**parameters)

    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        return self.wrapped.perturb(model, batch, inner)

    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        return self.wrapped.loss(model, batch, x_adv_NCHW)

    @contextmanager
    def displaced(
        self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor, precision: Precision = nullcontext
    ) -> Iterator[None]:
        """The network at w + v; on leaving, also by an exception, at w."""
        weights = _moved(model)
        v = self._perturbation(model, batch, x_adv_NCHW, weights, precision)
        before = _copies(weights)
        try:
            with torch.no_grad():
                torch._foreach_add_(weights, v)
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, before)

    def _perturbation(
        self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor, weights: list[Tensor], precision: Precision
    ) -> list[Tensor]:
        """v, layer by layer. Nothing waits for the device: all is tensors, also the norms."""
        with _statistics_kept(model):
            with precision():
                loss = self.loss(model, batch, x_adv_NCHW).loss
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        batch.average(gradients)
        with torch.no_grad():
            lengths = torch._foreach_add(torch._foreach_norm(gradients), TINY)
            scales = torch._foreach_div(torch._foreach_norm(weights), lengths)
            torch._foreach_mul_(scales, self.gamma)
            return list(torch._foreach_mul(gradients, scales))

    def passes(self, inner: Inner) -> float:
        return self.wrapped.passes(inner) + WRAPPED[self.wraps][1]


def _moved(model: nn.Module) -> list[Tensor]:
    return [w for name, w in model.named_parameters() if w.requires_grad and w.ndim > 1 and "weight" in name]


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """A pass whose traces in the buffers (batch norm's statistics and counters) are wiped out, in place."""
    buffers = list(model.buffers())
    before = _copies(buffers)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(buffers, before)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    with torch.no_grad():
        torch._foreach_copy_(copies, tensors)
    return copies
