"""The network that attacks search on: the same function, computed cheaper; the network itself decides every verdict.

Batch norm is folded and memory is channels-last (shadow.py); with `precision` tf32, fp16 or bf16 its arithmetic is
shorter too. Attacks amplify rounding, so whatever the cheap network finds is asked of the network itself in float32.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import SearchForm, cross_entropy, input_gradient
from deatbench.engine.execution import compiled
from deatbench.engine.shadow import TENSOR_CORE_CHANNELS, AttackForm, worth_a_shadow

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAME = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.25}  # of the largest logit: the same function?
PROBE = 32  # images on which that is seen


@dataclass(frozen=True)
class Search:
    """How attacks compute while they search.

    Args:
        precision: fp32 is strict float32; the others may search, float32 decides.
        compiled: through torch.compile, which costs a minute and pays on a GPU with many images.
    """

    precision: Precision = "fp32"
    compiled: bool = False

    def form(self, model: nn.Module, x_NCHW: Tensor, *, always: bool = False) -> SearchForm:
        """The network to search on in place of `model`, for images like `x_NCHW`; `model` where nothing is gained.

        A shadow is free of `model`'s code and state; `always` asks for one for that reason alone.
        """
        dtype = SHORT.get(self.precision, torch.float32)
        cheap = _shadow(model, x_NCHW[:PROBE], dtype) if always or worth_a_shadow(model, dtype) else model
        if self.compiled:
            cheap = _compiled_if_possible(cheap, x_NCHW)
        return SearchForm(cheap, _Strict(model))

    def arithmetic(self) -> AbstractContextManager[None]:
        """Entered around an attack: TF32 on where that is the precision asked for."""
        return float32_arithmetic(tf32=True) if self.precision == "tf32" else nullcontext()


def _shadow(model: nn.Module, x_NCHW: Tensor, dtype: torch.dtype) -> nn.Module:
    """`model` with folded batch norm in `dtype`, or what comes nearest where it cannot be traced or is not the same."""
    channels = TENSOR_CORE_CHANNELS if x_NCHW.is_cuda and dtype != torch.float32 else 0
    try:
        shadow = AttackForm(model, dtype, channels)
        with torch.no_grad(), strict_float32():  # in TF32 no two forms agree so far
            expected_NK, found_NK = model(x_NCHW), shadow(x_NCHW)
    except Exception:  # control flow that depends on data, hooks, or any other thing that fx does not trace
        same = False
    else:
        same = bool((found_NK - expected_NK).abs().max() <= SAME[dtype] * expected_NK.abs().max())
    if same:
        return shadow
    return model if dtype == torch.float32 else _Short(copy.deepcopy(model), dtype)


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


class _Compiled(nn.Module):
    """A network through torch.compile, which makes code for one batch size: a batch is cut, its rest filled up."""

    size = 512

    def __init__(self, net: nn.Module, x_NCHW: Tensor) -> None:
        super().__init__()
        self.net = net
        self.fast = compiled(net)
        x_NCHW = self._filled(x_NCHW[: self.size])
        input_gradient(self.fast, x_NCHW, torch.zeros_like(x_NCHW[:, 0, 0, 0], dtype=torch.long), cross_entropy)
        with torch.no_grad():
            self.fast(x_NCHW)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat([self._part(part) for part in x_NCHW.split(self.size)])

    def _part(self, part: Tensor) -> Tensor:
        if 4 * len(part) < self.size:  # filling up would cost more than it gains
            return self.net(part)
        return self.fast(self._filled(part))[: len(part)]

    def _filled(self, part: Tensor) -> Tensor:
        missing = self.size - len(part)
        return torch.cat((part, part.new_zeros(missing, *part.shape[1:]))) if missing else part


def _compiled_if_possible(net: nn.Module, x_NCHW: Tensor) -> nn.Module:
    """`net` compiled; as it is where that fails."""
    try:
        return _Compiled(net, x_NCHW)
    except Exception:  # the compiler or the network's code may fail in any way; the search goes on without
        return net


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
