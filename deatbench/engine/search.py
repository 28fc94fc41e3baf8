"""The network that attacks search on: the same function, computed cheaper; the network itself decides every verdict.

Batch norm is folded and memory is channels-last; with `precision` tf32, fp16 or bf16 its arithmetic is shorter too.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import SearchForm, cross_entropy, input_gradient
from deatbench.engine.folding import attack_form

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Search:
    """How attacks compute while they search.

    Args:
        precision: fp32 is strict float32; the others may search, float32 decides.
        compiled: through torch.compile, which costs a minute and pays on a GPU with many images.
    """

    precision: Precision = "fp32"
    compiled: bool = False

    def form(self, model: nn.Module, x_NCHW: Tensor) -> SearchForm:
        """The network to search on in place of `model`, for images like `x_NCHW`."""
        cheap = attack_form(model, x_NCHW)
        if self.precision in SHORT:
            cheap = _Short(cheap if cheap is not model else copy.deepcopy(model), SHORT[self.precision])
        if self.compiled:
            cheap = _compiled(cheap, x_NCHW)
        return SearchForm(cheap, _Strict(model))

    def arithmetic(self) -> AbstractContextManager[None]:
        """Entered around an attack: TF32 on where that is the precision asked for."""
        return float32_arithmetic(tf32=True) if self.precision == "tf32" else nullcontext()


class _Short(nn.Module):
    """A network in 16 bits that takes and returns float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype).requires_grad_(False), dtype

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW.to(self.dtype)).float()


class _Strict(nn.Module):
    """The network itself, in float32 also while a search runs in TF32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_NCHW: Tensor) -> Tensor:
        with strict_float32():
            return self.net(x_NCHW)


def _compiled(net: nn.Module, x_NCHW: Tensor) -> nn.Module:
    """`net` through torch.compile, for batches of any size; as it is where that fails."""
    try:
        fast: nn.Module = torch.compile(net, dynamic=True)  # type: ignore[assignment]
        for size in (len(x_NCHW), max(2, len(x_NCHW) // 2)):
            y_N = torch.zeros(size, dtype=torch.long, device=x_NCHW.device)
            input_gradient(fast, x_NCHW[:size], y_N, cross_entropy)
            with torch.no_grad():
                fast(x_NCHW[:size])
    except Exception:  # the compiler or the network's code may fail in any way; the search goes on without
        return net
    return fast


class float32_arithmetic:  # noqa: N801 - reads as a statement: `with strict_float32():`
    """Allow TF32 in float32 products, or forbid it; afterwards all is as before. cuDNN allows it by default."""

    def __init__(self, *, tf32: bool) -> None:
        self.tf32 = tf32

    def __enter__(self) -> None:
        self._before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32

    def __exit__(self, *exc: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


def strict_float32() -> float32_arithmetic:
    """Switch TF32 off while verdicts are made; on Ampere and later it is on for convolutions by default."""
    return float32_arithmetic(tf32=False)
