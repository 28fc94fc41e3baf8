"""How a sweep goes: a live table where stderr is a terminal, plain lines elsewhere; and where it stands, on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deatbench.cli.monitor import LINE_EVERY_SECONDS, clock
from deatbench.cli.tables import print_table
from deatbench.sweep import Ledger, Standing, Watch

MAX_SHOWN = 20  # runs of a kind, on a screen


class LineWatch(Watch):
    """A line whenever a run has ended, and how far the sweep is now and then."""

    def __init__(self, name: str) -> None:
        self._name, self._began, self._spoke = name, time.monotonic(), float("-inf")
        self._first: int | None = None
        self.standing: Standing | None = None

    def show(self, standing: Standing) -> None:
        self.standing = standing
        if self._first is None:
            self._first = standing.finished
        now = time.monotonic()
        if now - self._spoke >= LINE_EVERY_SECONDS:
            self._spoke = now
            self._say(self.summary())

    def ended(self, run: str, error: str | None, final: bool) -> None:
        again = "" if final else "; to be tried again"
        self._say(plain(f"{run}: done" if error is None else f"{run}: failed: {error}{again}"))

    def summary(self) -> str:
        """How far it is, and how long it will take if it goes on like this."""
        if self.standing is None:
            return f"{self._name}: starting"
        seconds = self._seconds_left(self.standing)
        left = f", about {clock(seconds)} left" if seconds else ""
        return f"{self._name}: {counts(self.standing)}{left}"

    def _seconds_left(self, found: Standing) -> float | None:
        """By the pace of this command, once it has one; before that by what finished runs took, whoever did them."""
        done, at_once = found.finished - (self._first or 0), len(found.running)
        rest = found.runs - found.finished
        if done > 2 * at_once:
            return (time.monotonic() - self._began) / done * rest
        if found.mean_seconds is None or not at_once:
            return None
        return found.mean_seconds * (rest - at_once / 2) / at_once  # those in work are half done, on average

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class LiveWatch(LineWatch):
    """The same as a table that is always up to date."""

    def __init__(self, name: str, live: Live) -> None:
        super().__init__(name)
        self._live = live

    def show(self, standing: Standing) -> None:
        self.standing = standing
        self._first = standing.finished if self._first is None else self._first
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        for run_id, progress in islice(standing.running.items(), MAX_SHOWN):
            table.add_row(Text(plain(standing.labels[run_id])), Text(plain(progress)))
        self._live.update(Group(table, Text(self.summary())))

    def _say(self, line: str) -> None:
        self._live.console.print(Text(line))


@contextmanager
def watching(name: str) -> Iterator[LineWatch]:
    """A live table where stderr is a terminal that can draw one, else lines."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, transient=True) as live:
            yield LiveWatch(name, live)
    else:
        yield LineWatch(name)


def print_standing(ledger: Ledger, standing: Standing, as_json: bool) -> None:
    """Where a sweep stands, on stdout."""
    name = ledger.folder.name
    if as_json:
        document = {
            "sweep": name,
            "points": standing.points,
            "runs": standing.runs,
            "finished": standing.finished,
            "running": dict(standing.running),
            "failed": [failure.model_dump(mode="json") for failure in standing.failed.values()],
            "left": standing.left,
            "results": str(ledger.results),
        }
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    print(f"{name}: {counts(standing)}")
    rows = [(run_id, "running", progress) for run_id, progress in standing.running.items()]
    for run_id, failure in standing.failed.items():
        rows.append((run_id, "failed for good" if failure.lasting else f"failed {failure.attempts} ×", failure.error))
    if rows:
        print_table(
            ["run", "point", "", ""], [[run, plain(standing.labels[run]), *map(plain, rest)] for run, *rest in rows]
        )


def counts(standing: Standing) -> str:
    """`12 of 48 runs finished, 2 running, 1 failed, 33 left`."""
    parts = [f"{standing.finished:,} of {standing.runs:,} runs finished"]
    parts += [f"{len(standing.running):,} running"] if standing.running else []
    parts += [f"{len(standing.failed):,} failed"] if standing.failed else []
    parts += [f"{standing.left:,} left"] if standing.left else []
    return ", ".join(parts)


def plain(text: str) -> str:
    """Text that a terminal shows and does not obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
