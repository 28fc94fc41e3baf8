"""What an executor is: it takes tasks, does them somewhere, and tells how each ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from deatbench.registry import Registry
from deatbench.sweep.task import Outcome, Task


@dataclass(frozen=True)
class Needs:
    """What a sweep asks of an executor.

    Args:
        folder: the sweep's folder, for logs.
        jobs: runs at once; None: as many as fit.
        threads: CPU threads of a run; None: its share of the cores.
        device: "cpu", "cuda" for any GPU, "cuda:1" for one.
        cpus: cores that a run is given.
        gpus: GPUs that a run is given; half a one is 0.5.
    """

    folder: Path
    jobs: int | None = None
    threads: int | None = None
    device: str = "cpu"
    cpus: int = 1
    gpus: float = 0.0


class Executor(Protocol):
    """Does tasks with `deatbench.sweep.task.attempt`, each with the device and threads of the place where it lands.

    A worker that dies is a failed attempt of its task, never the end of the sweep. Leaving the executor stops what is
    still being done: workers get SIGTERM, save, and go.
    """

    slots: int
    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, task: Task) -> None:
        """Take a task; the caller has at most `slots` of them out."""
        ...

    def outcomes(self, seconds: float) -> list[Outcome]:
        """Wait up to so long for tasks to end; those that have."""
        ...


EXECUTORS: Registry[Callable[[Needs], Executor]] = Registry("executor", "deatbench.sweep.executors")
