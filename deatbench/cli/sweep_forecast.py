"""`deatbench sweep --dry-run`: how many runs are left, and the hours they take.

Expected is the mean of finished runs of the same kind; where there are none, what a few steps of it make expect.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from statistics import fmean

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
    """Runs that take equally long: one of them, and how many are left.

    Args:
        seconds: of each, expected; None: neither finished nor timed.
        at_most: of each, in the worst case; None as `seconds`.
        finished: runs that `seconds` is the mean of; none: a forecast from a few steps.
    """

    example: str
    runs: int
    seconds: float | None
    at_most: float | None
    finished: int


@dataclass(frozen=True)
class Forecast:
    """What a sweep would do. `seconds` of all that is left, one run after the other; `wall_seconds` with `jobs`.

    `at_most` and `wall_at_most` are the same if every image withstood every attack.
    """

    sweep: str
    points: int
    runs: int
    finished: int
    left: int
    seconds: float
    at_most: float
    jobs: int
    threads: int
    wall_seconds: float
    wall_at_most: float
    kinds: tuple[Kind, ...]


def forecast(sweep: Sweep, ledger: Ledger, around: Surroundings, executor: Executor) -> Forecast:
    """Plans all runs, times a few kinds of them for seconds each. Writes no file."""
    plan = ledger.plan(sweep, around)
    runs = by_run(plan)
    finished = ledger.finished(runs)
    left = len(runs) - len(finished)
    torch.set_num_threads(executor.threads)
    kinds = _kinds(_alike(sweep, plan), finished, ledger.seconds(runs), around)
    seconds = _in_all([(kind.runs, kind.seconds) for kind in kinds])
    at_most = _in_all([(kind.runs, kind.at_most) for kind in kinds])
    jobs = max(1, min(executor.slots, left))
    return Forecast(
        sweep=sweep.name,
        points=len(plan),
        runs=len(runs),
        finished=len(finished),
        left=left,
        seconds=seconds,
        at_most=at_most,
        jobs=jobs,
        threads=executor.threads,
        wall_seconds=seconds / jobs,
        wall_at_most=at_most / jobs,
        kinds=kinds,
    )


def _alike(sweep: Sweep, plan: Sequence[Planned]) -> list[dict[str, Point]]:
    """The runs, each with its first point; those together that take equally long."""
    kinds: dict[str, dict[str, Point]] = {}
    for point, planned in zip(sweep, plan, strict=True):
        matters = {key: value for key, value in point.asked.items() if not key.startswith(NO_MATTER)}
        kinds.setdefault(json.dumps(matters, sort_keys=True), {}).setdefault(planned.run_id, point)
    return list(kinds.values())


def _kinds(
    alike: Sequence[dict[str, Point]], finished: Set[str], spent: Mapping[str, float], around: Surroundings
) -> tuple[Kind, ...]:
    """The kinds of which runs are left: what finished ones took in the mean, else what a few steps make expect."""
    unfinished = [kind for kind in alike if not kind.keys() <= finished]
    step = max(1, -(-len(unfinished) // MAX_TIMED))
    found = []
    for number, kind in enumerate(unfinished):
        left = [point for run_id, point in kind.items() if run_id not in finished]
        took = [spent[run_id] for run_id in kind if run_id in spent]
        seconds, at_most = (fmean(took), max(took)) if took else (None, None)
        if number % step == 0:
            print(f"note: timing a few steps of {left[0].label}", file=sys.stderr, flush=True)
            timed, worst = _timed(left[0], around)
            seconds, at_most = timed if seconds is None else seconds, max(worst, at_most or 0.0)
        found.append(Kind(left[0].label, len(left), seconds, at_most, len(took)))
    return tuple(found)


def _timed(point: Point, around: Surroundings) -> tuple[float, float]:
    """Seconds of a run: expected, and at most."""
    config = configured(point, around)
    data = load_dataset(config.dataset, around.data_dir, val_fraction=config.val_fraction, download=False)
    stages = stages_of(config, data, torch.device(around.device))
    return sum(stage.expected for stage in stages), sum(stage.seconds for stage in stages)


def _in_all(kinds: Sequence[tuple[int, float | None]]) -> float:
    """Seconds of all runs; those that nobody knows are taken for the mean of the others."""
    known = [(runs, seconds) for runs, seconds in kinds if seconds is not None]
    count = sum(runs for runs, _ in known)
    mean = sum(runs * seconds for runs, seconds in known) / count if count else 0.0
    return mean * sum(runs for runs, _ in kinds)


def print_forecast(found: Forecast, as_json: bool) -> None:
    """The forecast on stdout: a few lines, or one JSON document."""
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
        return
    points = f" ({found.points:,} points)" if found.points != found.runs else ""
    print(f"{found.sweep}: {found.runs:,} runs{points}, {found.finished:,} finished, {found.left:,} left")
    print(
        f"about {_hours(found.seconds)} hours of runs (at most {_hours(found.at_most)}); "
        f"{clock(found.wall_seconds)} (at most {clock(found.wall_at_most)}) with {found.jobs} at once, "
        f"{found.threads} thread{'s' if found.threads > 1 else ''} each"
    )
    for kind in found.kinds:
        if kind.seconds is not None and kind.at_most is not None:
            how = f"the mean of {kind.finished:,} finished" if kind.finished else "from a few steps"
            each = f"about {clock(kind.seconds)} each (at most {clock(kind.at_most)}), {how}"
            print(f"  {kind.runs:,} like {kind.example}: {each}")
    guessed = sum(kind.runs for kind in found.kinds if kind.seconds is None)
    if guessed:
        print(f"  {guessed:,} of other kinds, not timed: taken for the mean")
    if found.left:
        print("at most: if every image withstood every attack; last weights that are the best ones cost nothing more")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"
