"""How a training step is executed. Changes no result but by rounding, so it is no part of a run's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import nn

from deatbench.errors import ConfigError

VARIABLE = "DEATBENCH_STEP"
FORMS_IN_A_PROCESS = 64  # that torch.compile makes code for; without a word it stops after 8
Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Execution:
    """What `auto` means: compile and graph on CUDA only, folding everywhere, 8 channels on CUDA in half precision, and
    small networks scripted on CPUs.

    Args:
        compile: torch.compile of the attack form and of the training pass; "attack": of the attack form alone.
        graph: the whole step as one CUDA graph; "on" without CUDA: the same buffers, no graph.
        script: TorchScript programs of the attack form, unless it is compiled.
        fold: the attack asks a network with folded batch norm (only where batch norm is in eval mode inside it).
        channels: the attack form's first convolution is filled up to so many channels; "auto", "0", "4", "8".
        mode: torch.compile's mode.
        algorithms: how many of cuDNN's algorithms are tried for each convolution: 10, or "all", slower to start.
    """

    compile: Literal["auto", "on", "off", "attack"] = "auto"
    graph: Switch = "auto"
    script: Literal["auto", "off"] = "auto"
    fold: Switch = "auto"
    channels: Literal["auto", "0", "4", "8"] = "auto"
    mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"
    algorithms: Literal["10", "all"] = "10"

    @classmethod
    def from_environment(cls) -> Execution:
        """What DEATBENCH_STEP says, else the defaults. Raises ConfigError on what it does not know."""
        return cls.parse(os.environ.get(VARIABLE, ""))

    @classmethod
    def parse(cls, text: str) -> Execution:
        """From words such as "compile=off graph=off"."""
        execution, hints = cls(), get_type_hints(cls)
        for word in text.split():
            key, _, value = word.partition("=")
            if key not in hints or value not in get_args(hints[key]):
                known = f"{key}={'|'.join(get_args(hints[key]))}" if key in hints else _known()
                raise ConfigError(f"{VARIABLE}: {word!r} is not understood", f"known: {known}")
            changed: dict[str, Any] = {key: value}
            execution = replace(execution, **changed)
        return execution


def compiled(network: nn.Module, mode: str = "default") -> nn.Module:
    """`network` through torch.compile, for one shape of batch at a time; code is made when it is first called."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, FORMS_IN_A_PROCESS)
    form: nn.Module = torch.compile(network, dynamic=False, mode=mode)  # type: ignore[assignment]
    return form


def _known() -> str:
    return ", ".join(field.name for field in fields(Execution))


@contextmanager
def fast_kernels(cuda: bool, all_algorithms: bool) -> Iterator[None]:
    """Convolution algorithms chosen by trial, TF32 where float32 is left; put back, as verdicts want neither."""
    if not cuda:
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.benchmark_limit, cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    cudnn.benchmark_limit = 0 if all_algorithms else 10
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit, cudnn.allow_tf32, matmul.allow_tf32 = before
