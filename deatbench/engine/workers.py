"""Several units of a stage at once on the cores of one machine, each on one thread: certificates.

A proof is thousands of small operations, which many threads on each tensor would wait for. Attacks are not: all cores
on each tensor are as fast for small networks and faster for large ones, of which few images are left
(benchmarks/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from deatbench.engine.shards import Alone

T = TypeVar("T")


class Workers(Alone):
    """Threads of this process. Whatever they call must not change under each other's hands."""

    def __init__(self, count: int) -> None:
        self.count = count

    def share(self, stage: str, units: int, work: Callable[[int], T]) -> Iterator[tuple[int, T]]:
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))
        try:
            waiting: dict[Future[T], int] = {pool.submit(work, unit): unit for unit in range(units)}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)
