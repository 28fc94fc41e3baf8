"""One evaluation by several processes: `torchrun --nproc-per-node N -m deatbench eval …`.

Each stage of an evaluation is a list of units, parts of the images that still stand. The processes take units off one
queue; at the end of a stage all know all outcomes. What a unit finds depends on nothing but itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from deatbench.attacks.journal import Journal
from deatbench.errors import ConfigError

T = TypeVar("T")
MEETING = timedelta(minutes=5)  # for all processes to start
PATIENCE = timedelta(days=7)  # the others may be at a long unit
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what it tells each of its processes


class Alone:
    """One process, which does everything."""

    rank = 0
    count = 1  # how many work at once

    def wait(self) -> None:
        """Until all processes are here."""

    def heeded_by(self, journal: Journal) -> Journal:
        """The journal of a search that must end when the team ends; here it ends with the process."""
        return journal

    def share(self, stage: str, units: int, work: Callable[[int], T]) -> Iterator[tuple[int, T]]:
        """(unit, outcome) of each of the units 0 .. units-1 of a stage, whoever worked on it."""
        for unit in range(units):
            yield unit, work(unit)


class Shards(Alone):
    """The processes that torchrun started, with gloo between them."""

    def __init__(self) -> None:
        self.store, self.rank, self.count = next(dist.rendezvous("env://", timeout=MEETING))
        self.store.set_timeout(PATIENCE)
        self.queue = dist.PrefixStore("deatbench", self.store)
        dist.init_process_group("gloo", store=self.store, rank=self.rank, world_size=self.count, timeout=PATIENCE)

    def wait(self) -> None:
        dist.barrier()

    def share(self, stage: str, units: int, work: Callable[[int], T]) -> Iterator[tuple[int, T]]:
        mine: list[tuple[int, T]] = []
        while (unit := self.queue.add(stage, 1) - 1) < units:
            mine.append((unit, work(unit)))
            yield mine[-1]
        everybodys: list[Any] = [None] * self.count
        dist.all_gather_object(everybodys, mine)
        for rank, theirs in enumerate(everybodys):
            if rank != self.rank:
                yield from theirs


def shards() -> Alone:
    """The processes that work together: those of torchrun, else this one alone. Raises ConfigError if they do not meet.

    A cluster may set some of torchrun's variables on its own: that makes no team.
    """
    if not all(os.environ.get(name) for name in TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
        return Alone()
    try:
        return Shards()
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ConfigError(f"the processes of torchrun do not meet: {reason}", f"see {', '.join(TORCHRUN)}") from error
