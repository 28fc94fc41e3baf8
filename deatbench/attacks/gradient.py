"""The gradient of a loss with respect to the input, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from deatbench.errors import DeatbenchError

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits_NK, y_N) -> loss_N


class InterruptedGradient(DeatbenchError):
    """The logits do not depend differentiably on the input (JPEG, numpy, a detach inside the model)."""

    def __init__(self) -> None:
        super().__init__("the model's gradient is interrupted", "only square and transfer attacks apply to it")


def input_gradient(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, loss: Loss) -> Tensor:
    """d(sum of losses)/dx, shape of x. Raises DeatbenchError as `ascent_direction` does."""
    return ascent_direction(model, x_NCHW, y_N, loss)[0]


def ascent_direction(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of the summed loss with respect to x, loss_N, logits_NK) from one forward and one backward pass.

    Weight gradients are neither computed nor touched. Raises InterruptedGradient if the logits do not depend
    differentiably on the input.
    """
    with torch.enable_grad():
        x = x_NCHW.detach().requires_grad_(True)
        logits_NK = model(x)
        loss_N = loss(logits_NK, y_N)
        total = loss_N.sum()
        if total.grad_fn is None:
            raise InterruptedGradient
        (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
    if gradient is None:
        raise InterruptedGradient
    return gradient, loss_N.detach(), logits_NK.detach()


class Near(Protocol):
    """Logits of images that differ from N known ones in a window each, for less than a whole forward pass."""

    def small(self, side: int) -> bool:
        """Whether windows of side² pixels are small enough."""

    def remember(self, of_M: Tensor, z_MCHW: Tensor) -> None:
        """The images `of_M` of the N are these, from now on."""

    def logits(self, windows_PCSS: Tensor, of_P: Tensor, top_P: Tensor, left_P: Tensor) -> Tensor:
        """[P, K] of the images `of_P` with these windows at these places."""


class SearchForm(nn.Module):
    """A cheaper network that searches for `exact`: nearly the same logits (batch norm folded, low precision).

    What it finds counts only if the exact network, in float32, agrees. `near` gives what computes neighbours of some
    images [N, C, H, W], or None where that gains nothing.
    """

    def __init__(self, cheap: nn.Module, exact: nn.Module) -> None:
        super().__init__()
        self.cheap, self.exact = cheap, exact
        self.near: Callable[[Tensor], Near | None] | None = None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.cheap(x_NCHW)


def misclassified(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Whose largest logit is not that of the label, bool [N]. NaN is no answer, and no answer is wrong."""
    return (logits_NK.argmax(1) != y_N) | logits_NK.isnan().any(1)


def broken(model: nn.Module, x_RCHW: Tensor, y_R: Tensor, logits_RK: Tensor) -> Tensor:
    """Which rows are misclassified, bool [R]: says `logits_RK`, of a search form confirmed by its exact network."""
    broken_R = misclassified(logits_RK, y_R)
    if isinstance(model, SearchForm):
        suspects = torch.nonzero(broken_R)[:, 0]
        broken_R[suspects] = _exactly(model, x_RCHW, y_R, suspects)
    return broken_R


def broken_rows(model: nn.Module, x_RCHW: Tensor, y_R: Tensor, logits_RK: Tensor) -> Tensor:
    """The positions of the rows that are `broken`; where there are none the device is waited for only once."""
    rows = torch.nonzero(misclassified(logits_RK, y_R))[:, 0]
    return rows[_exactly(model, x_RCHW, y_R, rows)] if isinstance(model, SearchForm) and len(rows) else rows


def _exactly(form: SearchForm, x_RCHW: Tensor, y_R: Tensor, rows: Tensor) -> Tensor:
    """Which of some rows the exact network misclassifies."""
    if len(rows) == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    with torch.no_grad():
        return misclassified(form.exact(x_RCHW[rows]), y_R[rows])


def cross_entropy(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Cross-entropy of each image, shape [N]."""
    return nn.functional.cross_entropy(logits_NK, y_N, reduction="none")


def margin(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, shape [N]; > 0 where misclassified (Carlini, Wagner 2017, f6)."""
    right_N1 = logits_NK.gather(1, y_N[:, None])
    wrong_NK = logits_NK.scatter(1, y_N[:, None], float("-inf"))
    return wrong_NK.amax(1) - right_N1[:, 0]


def margin_to(logits_NK: Tensor, y_N: Tensor, target_N: Tensor) -> Tensor:
    """Logit of the target class minus the right one, shape [N]."""
    return (logits_NK.gather(1, target_N[:, None]) - logits_NK.gather(1, y_N[:, None]))[:, 0]
