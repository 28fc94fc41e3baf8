"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from deatbench.sweep.cores import usable_cores
from deatbench.sweep.executors.base import EXECUTORS, Needs
from deatbench.sweep.task import Outcome, Task, attempt

GRACE_SECONDS = 20.0  # for saving


@EXECUTORS.register("local")
class Local:
    """Processes on this machine; GPUs are dealt out in turn.

    Every slot is a pool of one process: one that dies takes no other task with it. All hold one end of a pipe, the
    leash; when this process lets go of the other, or dies, they stop.
    """

    def __init__(self, needs: Needs) -> None:
        cores = usable_cores()
        devices = _devices(needs)
        self.slots = needs.jobs or (max(1, cores // needs.cpus) if needs.device == "cpu" else len(devices))
        self.threads = needs.threads or max(1, cores // self.slots)
        self._devices = [devices[slot % len(devices)] for slot in range(self.slots)]
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._out: dict[Future[Outcome], tuple[int, Task]] = {}
        self._leash, self._hand = multiprocessing.get_context("spawn").Pipe(duplex=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand.close()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._leash.close()

    def submit(self, task: Task) -> None:
        """Give the task to a free process."""
        slot = min(set(range(self.slots)) - {slot for slot, _ in self._out.values()})
        task = replace(task, device=self._devices[slot], threads=self.threads)
        try:
            future = self._pool(slot).submit(attempt, task)
        except BrokenProcessPool:  # it died between two tasks
            self._pools.pop(slot).shutdown()
            future = self._pool(slot).submit(attempt, task)
        self._out[future] = slot, task

    def outcomes(self, seconds: float) -> list[Outcome]:
        """Wait up to so long for tasks to end; those that have."""
        return [self._outcome(future) for future in wait(self._out, seconds, FIRST_COMPLETED).done]

    def _outcome(self, future: Future[Outcome]) -> Outcome:
        slot, task = self._out.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            self._pools.pop(slot).shutdown()
            return Outcome(task.run_id, "its worker process died")

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        if slot not in self._pools:
            context = multiprocessing.get_context("spawn")
            self._pools[slot] = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._leash,))
        return self._pools[slot]


def _devices(needs: Needs) -> list[str]:
    """A device for each run that fits on this machine, or on the one GPU that was named."""
    if needs.device == "cpu":
        return ["cpu"]
    import torch

    gpus = (
        [f"cuda:{number}" for number in range(torch.cuda.device_count())] if needs.device == "cuda" else [needs.device]
    )
    return gpus * (max(1, int(1 / needs.gpus)) if needs.gpus else 1)


def _begin(leash: Connection) -> None:
    """What a worker does first. Ctrl-C, which a terminal tells everybody, is the driver's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # stdout is the driver's
    warnings.simplefilter("ignore")
    threading.Thread(target=_follow, args=(leash,), daemon=True).start()


def _follow(leash: Connection) -> None:
    with suppress(EOFError, OSError):
        leash.recv()  # nothing is ever sent: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
