"""Several units of an evaluation at once on the cores of one machine, each on one thread.

For small networks, whose threads would wait for each other after operations of some microseconds: on an idle machine
that costs little, beside another process on the same cores three to four times the time (benchmarks/NOTES.md). A unit
computes the same whoever else is at work: its arithmetic is that of one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from deatbench.attacks.journal import Journal, Place
from deatbench.engine.shards import Alone

T = TypeVar("T")


class Stopped(Exception):
    """Raised inside a worker whose result nobody waits for any more."""


class Workers(Alone):
    """Threads of this process. Whatever they call must not change under each other's hands."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._stopping = threading.Event()

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
            self._stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stopping.clear()
            torch.set_num_threads(threads)

    def heeded_by(self, journal: Journal) -> Journal:
        """`journal`, which in addition lets a search end early when the others have."""
        return _Heeding(journal, self._stopping)


class _Heeding(Journal):
    def __init__(self, journal: Journal, stopping: threading.Event) -> None:
        self.journal, self.stopping = journal, stopping

    def recall(self) -> Place | None:
        return self.journal.recall()

    def keep(self, place: Callable[[], Place]) -> None:
        self.journal.keep(place)
        if self.stopping.is_set():
            raise Stopped
