"""A training step at fixed addresses: inputs and random draws are written into buffers that a CUDA graph reads.

Random numbers are drawn outside the graph, in the order and from the generator of the step that was recorded, so that
a replayed step sees the same numbers as one that runs freely.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from deatbench.attacks.rng import BatchRng
from deatbench.errors import DeatbenchError
from deatbench.methods.base import Batch

INPUTS = ("x_NCHW", "y_N", "other_N", "share_N")  # the tensors of a batch that change from step to step
WAITS = "called a synchronizing CUDA operation"  # torch's words in `waits_noticed`
Draw = tuple[Literal["uniform", "normal"], Tensor]


class RecordingRng(BatchRng):
    """Draws as BatchRng does and remembers what was asked for, each with a buffer of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.draws: list[Draw] = []

    def uniform(self, like_NCHW: Tensor) -> Tensor:
        self.draws.append(("uniform", torch.empty_like(like_NCHW)))
        return super().uniform(like_NCHW)

    def normal(self, like_NCHW: Tensor) -> Tensor:
        self.draws.append(("normal", torch.empty_like(like_NCHW)))
        return super().normal(like_NCHW)


class PlayedRng(BatchRng):
    """Hands out the buffers of a recording in their order."""

    def __init__(self, draws: list[Draw]) -> None:
        self._left = iter(draws)

    def uniform(self, like_NCHW: Tensor) -> Tensor:
        return self._next("uniform", like_NCHW)

    def normal(self, like_NCHW: Tensor) -> Tensor:
        return self._next("normal", like_NCHW)

    def _next(self, kind: str, like: Tensor) -> Tensor:
        found, buffer = next(self._left, ("nothing", like))
        if found != kind or buffer.shape != like.shape:
            raise DeatbenchError(f"the step draws {kind} {tuple(like.shape)} where it drew {found} before")
        return buffer


class CapturedStep:
    """`work` on buffers of its own: one CUDA graph; on the CPU the same without a graph.

    `draws` come from a RecordingRng that has seen a step of the same shapes. Capturing runs nothing.
    """

    def __init__(
        self, work: Callable[[Batch], None], batch: Batch, draws: list[Draw], stream: torch.cuda.Stream | None
    ) -> None:
        given = {name: getattr(batch, name) for name in INPUTS}
        self.inputs = {name: value.clone() for name, value in given.items() if value is not None}
        self.draws = draws
        played = replace(batch, **self.inputs)
        if stream is None:
            self._run: Callable[[], None] = lambda: work(replace(played, rng=PlayedRng(draws)))
            return
        graph = torch.cuda.CUDAGraph()
        with _no_collection(), torch.cuda.graph(graph, stream=stream):
            work(replace(played, rng=PlayedRng(draws)))
        self._run = graph.replay

    def fits(self, batch: Batch) -> bool:
        """Whether it was captured for batches of this shape."""
        return batch.x_NCHW.shape == self.inputs["x_NCHW"].shape

    def replay(self, batch: Batch, generator: torch.Generator) -> None:
        """One step on this batch, its random numbers from `generator`."""
        for name, buffer in self.inputs.items():
            buffer.copy_(getattr(batch, name))
        for kind, buffer in self.draws:
            buffer.uniform_(generator=generator) if kind == "uniform" else buffer.normal_(generator=generator)
        self._run()


@contextmanager
def waits_noticed(cuda: bool) -> Iterator[list[str]]:
    """What torch says of operations in the block that wait for the device. A graph cannot hold one: its capture fails,
    and on torch before 2.12 leaves the allocator in a state in which no later capture of the process succeeds.
    """
    if not cuda:
        yield []
        return
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
            found += [str(warning.message) for warning in said if WAITS in str(warning.message)]


def capturable(optimizer: torch.optim.Optimizer, cuda: bool) -> bool:
    """Whether an update reads its learning rate from a tensor and moves no state: else a graph would freeze it."""
    groups = optimizer.param_groups
    if not cuda or getattr(optimizer, "capturable", False):
        return True
    sgd = isinstance(optimizer, torch.optim.SGD)
    return all(group.get("capturable") or (sgd and group["fused"]) for group in groups)


@contextmanager
def stream_of_its_own(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Graphs are captured off the default stream; warm-up and replay use the same one. None: no CUDA."""
    if stream is None:
        yield
        return
    outside = torch.cuda.current_stream(stream.device)
    stream.wait_stream(outside)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        outside.wait_stream(stream)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The garbage collector may free device memory, which is forbidden while a stream is captured."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
