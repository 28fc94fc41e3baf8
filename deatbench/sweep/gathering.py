"""Reading the folders of many finished runs: by several processes, since all of it is parsing and checking."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial

from deatbench.errors import DeatbenchError
from deatbench.store import Home
from deatbench.sweep.cores import usable_cores
from deatbench.sweep.points import Planned
from deatbench.sweep.results import result_of, to_line

WORTH_A_PROCESS = 500  # runs, read in about the time that a process needs to start
MAX_PROCESSES = 16
PART = 50  # runs that a process reads at a time


def line_of(home: Home, points: Sequence[Planned]) -> str | None:
    """The result of the run that `points` stand for; None until it is finished. Raises what reading records raises."""
    result = result_of(home.run(points[0].run_id), points)
    return None if result is None else to_line(result)


def lines_of(home: Home, runs: Sequence[Sequence[Planned]]) -> dict[str, str]:
    """The results of all finished ones of `runs` by their ids, in their order.

    One whose records are broken is passed over: the attempt to do it will say what is wrong.
    """
    lines: dict[str, str] = {}
    left = deque(runs[start : start + PART] for start in range(0, len(runs), PART))
    processes = min(len(runs) // WORTH_A_PROCESS, usable_cores(), MAX_PROCESSES)
    if processes > 1:
        spawn = multiprocessing.get_context("spawn")
        with suppress(BrokenProcessPool, OSError), ProcessPoolExecutor(processes, spawn, _begin) as pool:
            for found in pool.map(partial(_read, home), tuple(left)):
                lines |= found
                left.popleft()
    for part in left:  # all, where they are few; else what processes that died have left
        lines |= _read(home, part)
    return lines


def _read(home: Home, runs: Sequence[Sequence[Planned]]) -> dict[str, str]:
    lines = {}
    for points in runs:
        with suppress(DeatbenchError):
            line = line_of(home, points)
            if line is not None:
                lines[points[0].run_id] = line
    return lines


def _begin() -> None:
    """What a process does first. Ctrl-C, which a terminal tells everybody, is its parent's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
