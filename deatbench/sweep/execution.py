"""The driver: gives out what is left to do, tries again what has failed, keeps the books."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterable
from itertools import islice
from statistics import fmean

from deatbench.errors import DeatbenchError
from deatbench.sweep.executors import Executor
from deatbench.sweep.ledger import Ledger, Standing, by_run
from deatbench.sweep.points import Planned, Surroundings, command, configured
from deatbench.sweep.results import seconds_of
from deatbench.sweep.spec import Point, Sweep
from deatbench.sweep.task import Outcome, Task

LOOK_EVERY_SECONDS = 1.0
WRITE_EVERY_SECONDS = 30.0
WRITING_SHARE = 0.05  # of the time, at most
ASKED_FOR_SECONDS = 500  # of the results that are there already


class Watch:
    """Sees how a sweep goes; this one looks away."""

    def show(self, standing: Standing) -> None:
        """How far it is, every second."""

    def ended(self, run: str, error: str | None, final: bool) -> None:
        """An attempt has ended; one that failed and is not `final` will be repeated."""


class Driver:
    """One sweep being done; the ledger's lock is held.

    Args:
        sweep: what is to be done; `plan`: its points with their runs.
        around: what else decides the configurations.
        retries: how often a failed run is tried again.
        watch: who looks on.
    """

    def __init__(
        self,
        sweep: Sweep,
        plan: list[Planned],
        ledger: Ledger,
        around: Surroundings,
        *,
        retries: int = 2,
        watch: Watch | None = None,
    ) -> None:
        self.sweep, self.plan, self.ledger, self.around = sweep, plan, ledger, around
        self.retries, self.watch = retries, watch or Watch()
        self._runs = by_run(plan)
        self._asked = _first_points(sweep, plan)
        ledger.begin(sweep, plan)
        self._lines = ledger.gather(self._runs)
        self._seconds = _known(seconds_of(line) for line in _some(self._lines.values()))
        self._failed = ledger.failed(self._runs.keys() - self._lines.keys())
        self._attempts: Counter[str] = Counter()
        self._write()

    def run(self, executor: Executor) -> Standing:
        """Do all that is not finished and can be; returns how it ended. Failures are in the standing, not raised."""
        lasting = {run_id for run_id, failure in self._failed.items() if failure.lasting}
        queue = deque(run_id for run_id in self._runs if run_id not in self._lines and run_id not in lasting)
        out: set[str] = set()
        try:
            while queue or out:
                while queue and len(out) < executor.slots:
                    run_id = queue.popleft()
                    executor.submit(self._task(run_id))
                    out.add(run_id)
                self.watch.show(self.standing())
                for outcome in executor.outcomes(LOOK_EVERY_SECONDS):
                    out.remove(outcome.run_id)
                    if not self._settled(outcome):
                        queue.append(outcome.run_id)
                self._write_now_and_then()
        finally:
            if self._unwritten:
                self._write()
        return self.standing()

    def standing(self) -> Standing:
        """How far it is."""
        running = self.ledger.in_work(self._runs.keys() - self._lines.keys())
        mean_seconds = fmean(self._seconds) if self._seconds else None
        return Standing.of(self._runs, self._lines, running, self._failed, mean_seconds)

    def _task(self, run_id: str) -> Task:
        point = self._asked[run_id]
        config = configured(point, self.around)
        if config.run_id != run_id:
            message = f"{self.ledger.points} was written by another version of deatbench"
            raise DeatbenchError(message, "delete it; the same command writes it anew")
        return Task(
            run_id,
            config.model_dump(mode="json"),
            command(point),
            home=self.ledger.home.path.absolute(),
            data_dir=self.around.data_dir.absolute() if self.around.data_dir else None,
            progress=(self.ledger.running / f"{run_id}.json").absolute(),
            again=self._attempts[run_id] > 0,
        )

    def _settled(self, outcome: Outcome) -> bool:
        """Book an attempt; False if the run is to be tried again."""
        run_id, error = outcome.run_id, outcome.error
        self._attempts[run_id] += 1
        self.ledger.finish(run_id)
        if error is None:
            try:
                found = self.ledger.result(self._runs[run_id])
                self._lines |= found
                self._seconds += _known(map(seconds_of, found.values()))
                self._unwritten = True
            except DeatbenchError as unreadable:
                error = str(unreadable)
        if run_id in self._lines:
            self.ledger.forgive(run_id)
            self._failed.pop(run_id, None)
        else:
            error = error or "its records are not where they should be"
            self._failed[run_id] = self.ledger.fail(run_id, error, outcome.trace, lasting=outcome.lasting)
        final = error is None or outcome.lasting or self._attempts[run_id] > self.retries
        self.watch.ended(f"{run_id} ({self._runs[run_id][0].label})", error, final)
        return final

    def _write_now_and_then(self) -> None:
        """So that after a kill not everything is read again, and not all the time goes into writing."""
        pause = max(WRITE_EVERY_SECONDS, self._writing / WRITING_SHARE)
        if self._unwritten and time.monotonic() - self._written > pause:
            self._write()

    def _write(self) -> None:
        started = time.monotonic()
        self.ledger.write(self._lines)
        self._unwritten = False
        self._written = time.monotonic()
        self._writing = self._written - started


def _some(lines: Collection[str]) -> Iterable[str]:
    """Not many, from beginning to end."""
    return islice(lines, None, None, len(lines) // ASKED_FOR_SECONDS + 1)


def _known(seconds: Iterable[float | None]) -> list[float]:
    return [value for value in seconds if value is not None]


def _first_points(sweep: Sweep, plan: list[Planned]) -> dict[str, Point]:
    """For each run the first of the points that mean it."""
    points: dict[str, Point] = {}
    for point, planned in zip(sweep, plan, strict=True):
        points.setdefault(planned.run_id, point)
    return points
