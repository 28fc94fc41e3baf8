"""One evaluation by several processes: `torchrun --nproc-per-node N -m deatbench eval …`.

Each stage of an evaluation is a list of units, parts of the images that still stand. The processes take units off one
queue; at the end of a stage all know all outcomes. What a unit finds depends on nothing but itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist

from deatbench.attacks.journal import Journal
from deatbench.engine.distributed import Processes, Team

T = TypeVar("T")


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
    """The processes of a team, with one queue for each evaluation."""

    def __init__(self, team: Team) -> None:
        self.team, self.rank, self.count = team, team.rank, team.world
        self.queue = team.queue()

    def wait(self) -> None:
        self.team.most(0)

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


def shards(processes: Processes) -> Alone:
    """Those who share the next evaluation: all processes, which must all come here, or the only one."""
    return Shards(processes) if isinstance(processes, Team) else Alone()
