"""`deatbench sweep --dry-run`: how many runs are left, and hours from a few steps of each kind of run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from deatbench.cli.forecast import stages_of
from deatbench.cli.monitor import clock
from deatbench.data import load_dataset
from deatbench.sweep import Executor, Ledger, Planned, Surroundings, Sweep, by_run, configured
from deatbench.sweep.spec import Point

MAX_TIMED = 16  # kinds of runs that are timed; the others are taken for their mean
NO_MATTER = ("seed", "optimizer", "schedule", "threat", "label_smoothing", "guard")  # to how long a run takes


@dataclass(frozen=True)
class Kind:
    """Runs that take equally long: one of them, how many are left, the seconds of each; None: not timed."""

    example: str
    runs: int
    seconds: float | None


@dataclass(frozen=True)
class Forecast:
    """What a sweep would do. `seconds` of all that is left, one run after the other; `wall_seconds` with `jobs`."""

    sweep: str
    points: int
    runs: int
    finished: int
    left: int
    seconds: float
    jobs: int
    threads: int
    wall_seconds: float
    kinds: tuple[Kind, ...]


def forecast(sweep: Sweep, ledger: Ledger, around: Surroundings, executor: Executor) -> Forecast:
    """Plans all runs, times a few kinds of them for seconds each. Writes no file."""
    plan = ledger.plan(sweep, around)
    runs = by_run(plan)
    finished = ledger.finished(runs)
    torch.set_num_threads(executor.threads)
    kinds = _timed(_alike(sweep, plan, runs.keys() - finished), around)
    known = [kind for kind in kinds if kind.seconds is not None]
    count = sum(kind.runs for kind in known)
    mean = sum(kind.runs * (kind.seconds or 0.0) for kind in known) / count if count else 0.0
    seconds = sum(kind.runs * (mean if kind.seconds is None else kind.seconds) for kind in kinds)
    left = len(runs) - len(finished)
    jobs = max(1, min(executor.slots, left))
    return Forecast(
        sweep.name, len(plan), len(runs), len(finished), left, seconds, jobs, executor.threads, seconds / jobs, kinds
    )


def _alike(sweep: Sweep, plan: Sequence[Planned], left: set[str]) -> list[list[Point]]:
    """The points of the runs that are left, those together that take equally long."""
    kinds: dict[str, dict[str, Point]] = {}
    for point, planned in zip(sweep, plan, strict=True):
        if planned.run_id in left:
            matters = {key: value for key, value in point.asked.items() if not key.startswith(NO_MATTER)}
            kinds.setdefault(json.dumps(matters, sort_keys=True), {}).setdefault(planned.run_id, point)
    return [list(points.values()) for points in kinds.values()]


def _timed(kinds: list[list[Point]], around: Surroundings) -> tuple[Kind, ...]:
    step = max(1, -(-len(kinds) // MAX_TIMED))
    found = []
    for number, points in enumerate(kinds):
        seconds = None
        if number % step == 0:
            print(f"note: timing a few steps of {points[0].label}", file=sys.stderr, flush=True)
            seconds = _seconds(points[0], around)
        found.append(Kind(points[0].label, len(points), seconds))
    return tuple(found)


def _seconds(point: Point, around: Surroundings) -> float:
    config = configured(point, around)
    data = load_dataset(config.dataset, around.data_dir, val_fraction=config.val_fraction, download=False)
    return sum(stage.seconds for stage in stages_of(config, data, torch.device(around.device)))


def print_forecast(found: Forecast, as_json: bool) -> None:
    """The forecast on stdout: a few lines, or one JSON document."""
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
        return
    points = f" ({found.points:,} points)" if found.points != found.runs else ""
    print(f"{found.sweep}: {found.runs:,} runs{points}, {found.finished:,} finished, {found.left:,} left")
    print(
        f"about {found.seconds / 3600:.2f} hours of runs; {clock(found.wall_seconds)} with {found.jobs} at once, "
        f"{found.threads} thread{'s' if found.threads > 1 else ''} each: a forecast from a few steps"
    )
    for kind in (kind for kind in found.kinds if kind.seconds is not None):
        print(f"  {kind.runs:,} like {kind.example}: about {clock(kind.seconds or 0.0)} each")
    guessed = sum(kind.runs for kind in found.kinds if kind.seconds is None)
    if guessed:
        print(f"  {guessed:,} of other kinds, not timed: taken for the mean")
