"""How fast a forward pass and an input gradient run: precision, form (eager, compiled, CUDA graph), batch size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from benchmarks.gradients import input_gradient

Work = Callable[[], Tensor]
PRECISIONS = ("bf16", "tf32", "fp32")
FORMS = ("eager", "graph", "compile")
REPEATS = 3


def seconds_each(work: Work, device: torch.device, target: float = 0.06) -> float:
    """Median over three repeats of the seconds of one call, each repeat about `target` seconds long."""
    work()
    once = _elapsed(work, device, 1)
    times = max(1, int(target / max(once, 1e-6)))
    return statistics.median(_elapsed(work, device, times) / times for _ in range(REPEATS))


def _elapsed(work: Work, device: torch.device, times: int) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - started
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(times):
        work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3


def matmul_tflops(device: torch.device, size: int) -> float:
    """Peak probe: TFLOP/s of a square matrix product, bfloat16 on CUDA, float32 on the CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds_each(lambda: a @ b, device) / 1e12


def first_conv_ms(device: torch.device, channels: int, batch: int) -> float:
    """Milliseconds of a first convolution's input gradient (channels -> 64, 3x3, 32x32), channels last."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    layout = torch.channels_last
    x = torch.rand(batch, channels, 32, 32, device=device, dtype=dtype).to(memory_format=layout)
    weight = torch.rand(64, channels, 3, 3, device=device, dtype=dtype).to(memory_format=layout)
    out = torch.rand(batch, 64, 32, 32, device=device, dtype=dtype).to(memory_format=layout)

    def work() -> Tensor:
        wanted = [True, False, False]
        return torch.ops.aten.convolution_backward(
            out, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted
        )[0]

    return seconds_each(work, device) * 1e3


class Passes:
    """A network in one precision, folded or not, on a batch of noise: its forward pass and its input gradient."""

    def __init__(self, net: nn.Module, batch: int, precision: str, folded: bool, device: torch.device) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        net = fuse(net) if folded else net
        self.device = device
        self.net = net.to(device, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        x = torch.rand(batch, 3, 32, 32, device=device)
        self.x = x.to(dtype, memory_format=torch.channels_last)
        self.y = torch.zeros(batch, dtype=torch.long, device=device)

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.net(self.x)

    def gradient(self) -> Tensor:
        return input_gradient(self.net, self.x, self.y)

    def in_form(self, form: str, work: str) -> Work:
        """`work` ("forward" or "gradient") run eagerly, compiled by torch, or replayed as a CUDA graph."""
        eager: Work = getattr(self, work)
        if form == "graph":
            return _graphed(eager)
        if form == "compile":
            self.net = torch.compile(self.net, dynamic=False)
        return eager


def _graphed(work: Work) -> Work:
    """`work` captured once; a call replays it and returns the same tensor, filled anew."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
