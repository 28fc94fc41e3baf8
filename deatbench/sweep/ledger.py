"""What is kept of a sweep, below <home>/sweeps/<name>/. All of it follows from the file and from the run folders.

    sweep.yaml             the file as it was given
    points.jsonl           a line per point: its run, its label, its settings
    results.jsonl          a SweepResult per finished run, sorted by run: what reports read
    failures/<run>.json    the last failed attempt of a run that is not finished
    running/<run>.json     how far a run is, while a process is at it

A line of results.jsonl is made again when the run's records are younger than the file, and kept when they are gone:
who has no room for ten thousand run folders may delete those that are finished.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from deatbench.errors import ConfigError, DeatbenchError, MissingError
from deatbench.records import Identifier, Record
from deatbench.store import Home, atomic_write_text, parse_json, read_record, safe_name, write_record
from deatbench.sweep.gathering import line_of, lines_of
from deatbench.sweep.points import Planned, Surroundings, configured, from_lines, planned, to_lines
from deatbench.sweep.results import dump_line, files_of, is_finished, read_lines, seconds_of
from deatbench.sweep.spec import Sweep

LOCK_SECONDS = 1.0  # `status` holds the lock for a moment to see whether it is free


class Failure(Record):
    """The last failed attempt, in one line and the end of its traceback; after a `lasting` one no other is made."""

    schema_version: Literal[1] = 1
    run_id: Identifier
    attempts: int
    error: str
    trace: str = ""
    lasting: bool = False


@dataclass(frozen=True)
class Standing:
    """How far a sweep is. `running` says of each run in work how far it is; `failed` are unfinished and not in work.

    `labels` are those of running and failed runs; `mean_seconds` is what a finished run took, where that is known.
    """

    points: int
    runs: int
    finished: int
    running: Mapping[str, str]
    failed: Mapping[str, Failure]
    labels: Mapping[str, str]
    mean_seconds: float | None = None

    @classmethod
    def of(
        cls,
        runs: Runs,
        finished: Sized,
        running: Mapping[str, str],
        failed: Mapping[str, Failure],
        mean_seconds: float | None = None,
    ) -> Standing:
        """From what there is of each kind."""
        failed = {run_id: failure for run_id, failure in failed.items() if run_id not in running}
        labels = {run_id: runs[run_id][0].label for run_id in (*running, *failed)}
        points = sum(map(len, runs.values()))
        return cls(points, len(runs), len(finished), running, failed, labels, mean_seconds)

    @property
    def left(self) -> int:
        """Runs that nobody has tried yet."""
        return self.runs - self.finished - len(self.running) - len(self.failed)


Runs = Mapping[str, Sequence[Planned]]  # by id, with the points that each stands for


class Ledger:
    """The folder of one sweep in a working folder."""

    def __init__(self, home: Home, name: str) -> None:
        self.home = home
        self.folder = home.sweeps / safe_name(name, "sweep")
        self.sweep = self.folder / "sweep.yaml"
        self.points = self.folder / "points.jsonl"
        self.results = self.folder / "results.jsonl"
        self.failures = self.folder / "failures"
        self.running = self.folder / "running"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the sweep for this process; a second one gets ConfigError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=LOCK_SECONDS)
            lock.acquire()
        except Timeout:
            hint = f"`deatbench sweep status {self.folder}` says how far it is"
            raise ConfigError(f"sweep {self.folder.name} is being run by another process", hint) from None
        except OSError as error:
            raise DeatbenchError(f"cannot write {self.folder}: {error.strerror or error}", "choose --home") from error
        try:
            yield
        finally:
            lock.release()

    def held(self) -> bool:
        """Whether a process is running the sweep."""
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def plan(self, sweep: Sweep, around: Surroundings) -> list[Planned]:
        """The runs of all points: those on file where they are of this sweep, else configured now. Writes nothing."""
        known = self.planned()
        if len(known) == sweep.count and not self.differs(sweep):
            first = configured(next(iter(sweep)), around)  # another device, another version: other runs
            if (first.run_id, first.evaluation.digest) == (known[0].run_id, known[0].evaluation):
                return known
        return planned(sweep, around)

    def differs(self, sweep: Sweep) -> bool:
        """Whether another file is on record under this name."""
        return self.sweep.is_file() and self.sweep.read_text(encoding="utf-8") != sweep.text

    def planned(self) -> list[Planned]:
        """The points on file; none before the sweep has begun."""
        return from_lines(read_lines(self.points), str(self.points))

    def begin(self, sweep: Sweep, plan: list[Planned]) -> None:
        """Write down what is to be done. Nobody is at work."""
        for path, text in ((self.sweep, sweep.text), (self.points, to_lines(plan))):
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                atomic_write_text(path, text)
        self.running.mkdir(exist_ok=True)
        for path in self.running.iterdir():
            path.unlink()

    def gather(self, runs: Runs) -> dict[str, str]:
        """The results of all finished runs by their ids, each a line of JSON. Writes nothing."""
        lines = self._kept(runs)
        return lines | lines_of(self.home, [points for run_id, points in runs.items() if run_id not in lines])

    def finished(self, runs: Runs) -> set[str]:
        """The ids of finished runs: what `gather` would find, without reading the records."""
        done = set(self._kept(runs))
        done |= {run_id for run_id in runs.keys() - done if is_finished(self.home.run(run_id), runs[run_id][0])}
        return done

    def seconds(self, runs: Runs) -> dict[str, float]:
        """What each run took that results.jsonl knows."""
        found = {run_id: seconds_of(line) for run_id, line in self._kept(runs).items()}
        return {run_id: seconds for run_id, seconds in found.items() if seconds is not None}

    def result(self, points: Sequence[Planned]) -> dict[str, str]:
        """The result of one run under its id; nothing if it is not finished. Raises what reading records raises."""
        line = line_of(self.home, points)
        return {} if line is None else {points[0].run_id: line}

    def write(self, lines: Mapping[str, str]) -> None:
        """Write results.jsonl."""
        atomic_write_text(self.results, "".join(f"{lines[run_id]}\n" for run_id in sorted(lines)))

    def _kept(self, runs: Runs) -> dict[str, str]:
        """The lines of results.jsonl that still say what the run folders say. Raises ConfigError on a broken one."""
        written = _mtime_ns(self.results)
        lines = {}
        for number, line in enumerate(read_lines(self.results), 1):
            try:
                entry = json.loads(line)
                points = runs.get(entry["run_id"])
                if points and entry["evaluation"] == points[0].evaluation and not self._renewed(entry, written):
                    told = [{"label": point.label, "settings": point.settings} for point in points]
                    same = entry["points"] == told
                    lines[entry["run_id"]] = line if same else dump_line(entry | {"points": told})
            except (ValueError, TypeError, KeyError) as error:
                hint = "delete the line; it is made again from the run's folder"
                raise ConfigError(f"{self.results}: line {number} is no result", hint) from error
        return lines

    def fail(self, run_id: str, error: str, trace: str, *, lasting: bool) -> Failure:
        """Write down a failed attempt."""
        path = self.failures / f"{run_id}.json"
        attempts = 1 + (read_record(path, Failure).attempts if path.is_file() else 0)
        failure = Failure(run_id=run_id, attempts=attempts, error=error, trace=trace, lasting=lasting)
        write_record(path, failure)
        return failure

    def finish(self, run_id: str) -> None:
        """A run is no longer in work."""
        (self.running / f"{run_id}.json").unlink(missing_ok=True)

    def forgive(self, run_id: str) -> None:
        """A run that failed has been finished."""
        (self.failures / f"{run_id}.json").unlink(missing_ok=True)

    def failed(self, runs: Collection[str]) -> dict[str, Failure]:
        """The last failed attempts of `runs`."""
        paths = sorted(path for path in self.failures.glob("*.json") if path.stem in runs)
        return {path.stem: read_record(path, Failure) for path in paths}

    def in_work(self, runs: Collection[str]) -> dict[str, str]:
        """How far those of `runs` are that are in work."""
        found = {}
        for path in sorted(path for path in self.running.glob("*.json") if path.stem in runs):
            with contextlib.suppress(OSError, ConfigError):  # it may be gone by now
                told = parse_json(path.read_text(encoding="utf-8"), str(path))
                found[path.stem] = str(told.get("progress", "")) if isinstance(told, dict) else ""
        return found

    def standing(self) -> Standing:
        """How far the sweep is, from what is on file. Raises MissingError if it has not begun."""
        plan = self.planned()
        if not plan:
            raise MissingError(f"no sweep in {self.folder}", "`deatbench sweep` begins one")
        runs = by_run(plan)
        finished = self.finished(runs)
        left = runs.keys() - finished
        return Standing.of(runs, finished, self.in_work(left) if self.held() else {}, self.failed(left))

    def _renewed(self, entry: dict[str, Any], written: int) -> bool:
        """Whether the run has younger records than the line."""
        paths = files_of(self.home.run(entry["run_id"]), entry["evaluation"], entry["weights"])
        return any(_mtime_ns(path) > written for path in paths)


def _mtime_ns(path: Path) -> int:
    """When a file was written; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def by_run(plan: Sequence[Planned]) -> dict[str, list[Planned]]:
    """The points of each run, runs in the order of their first points."""
    runs: dict[str, list[Planned]] = {}
    for point in plan:
        runs.setdefault(point.run_id, []).append(point)
    return runs
