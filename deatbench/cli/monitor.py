"""Progress on stderr: a bar with rate and time left on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deatbench.engine.monitor import Monitor

LINE_EVERY_SECONDS = 30.0


def make_monitor(prefix: str = "") -> BarMonitor | LineMonitor:
    """A bar where stderr is a terminal that can draw one, else lines. `prefix` stands before every title."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return BarMonitor(console, prefix)
    return LineMonitor(prefix)


class LineMonitor(Monitor):
    """A line at the start, one at most every half minute, one at the end."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._title, self._status = "", ""
        self._total = self._done = 0.0
        self._started = self._spoke = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def note(self, text: str) -> None:
        _say(f"note: {text}")

    def start(self, title: str, total: float) -> None:
        self._title, self._total, self._done, self._status = self.prefix + title, total, 0.0, ""
        self._started = self._spoke = time.monotonic()
        _say(f"{self._title}: started")

    def advance(self, amount: float, status: str = "") -> None:
        self._done += amount
        self._status = status or self._status
        now = time.monotonic()
        if now - self._spoke >= LINE_EVERY_SECONDS:
            self._spoke = now
            _say(f"{self._title}: {self._figures(now - self._started)}")

    def finish(self, summary: str = "") -> None:
        _say(f"{self._title}: done in {clock(time.monotonic() - self._started)}  {summary}".rstrip())

    def _figures(self, seconds: float) -> str:
        share = min(self._done / self._total, 1.0) if self._total else 0.0
        left = f"  {clock(seconds / share - seconds)} left" if share else ""
        return f"{share:4.0%}{left}  {rate(self._done, seconds)}  {self._status}".rstrip()


class BarMonitor(Monitor):
    """One bar for the work in hand; finished work leaves a line behind."""

    def __init__(self, console: Console, prefix: str = "") -> None:
        self.prefix = prefix
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[rate]}  {task.fields[status]}[/]"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._started = self._done = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        self._bars.console.print(f"[dim]note:[/] {escape(text)}")

    def start(self, title: str, total: float) -> None:
        self._title, self._started, self._done = self.prefix + title, time.monotonic(), 0.0
        self._task = self._bars.add_task(escape(self._title), total=total or 1.0, status="", rate="")

    def advance(self, amount: float, status: str = "") -> None:
        if self._task is None:
            return
        self._done += amount
        figures = {"rate": rate(self._done, time.monotonic() - self._started)}
        if status:
            figures["status"] = escape(status)
        self._bars.update(self._task, advance=amount, **figures)  # type: ignore[arg-type]

    def finish(self, summary: str = "") -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        took = clock(time.monotonic() - self._started)
        self._bars.console.print(f"[green]✓[/] {escape(self._title)} [dim]{took}[/]  {escape(summary)}")


def clock(seconds: float) -> str:
    """A duration as people say it: 7.2 s, 3:05, 2:03:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(done: float, seconds: float) -> str:
    """Units per second."""
    return f"{done / seconds:,.1f}/s" if seconds > 0 and done > 0 else ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
