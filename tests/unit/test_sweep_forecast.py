"""How long a sweep takes: the mean of finished runs, else what a few steps make expect; and the time that is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_runs import TINY, make_run

from deatbench.cli import forecast as stages
from deatbench.cli import sweep_forecast, sweep_screen
from deatbench.cli.forecast import SURVIVORS, Stage
from deatbench.cli.sweep_screen import LineWatch
from deatbench.config import RunConfig
from deatbench.store import Home
from deatbench.sweep import Driver, Ledger, Standing, Surroundings, by_run, configured, parse_sweep
from deatbench.sweep.results import seconds_of

GRID = TINY + "axes:\n  update: {sgd: {}, deat: {method: deat}}\n  seed: [0, 1, 2]\n"
HERE = Surroundings("cpu")
EXPECTED, WORST = 50.0, 110.0


class Place:
    """A sweep of two kinds of runs, three of each; runs can be finished in any time."""

    def __init__(self, folder: Path) -> None:
        self.home, self.sweep = Home(folder), parse_sweep(GRID, "tried")
        self.ledger = Ledger(self.home, "tried")
        self.plan = self.ledger.plan(self.sweep, HERE)
        self.runs = by_run(self.plan)

    def finish(self, number: int, training: float, best: float, last: float) -> None:
        point = self.plan[number]
        folder = self.home.run(point.run_id)
        make_run(self.home, point)
        for name, seconds in (("best", best), ("last", last)):
            path = folder.evaluations / f"{name}-{point.evaluation}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))
        folder.training.write_text(json.dumps(json.loads(folder.training.read_text()) | {"seconds": training}))

    def forecast(self) -> sweep_forecast.Forecast:
        self.ledger.folder.mkdir(parents=True, exist_ok=True)
        self.ledger.write(self.ledger.gather(self.runs))
        executor: Any = SimpleNamespace(slots=2, threads=1)
        return sweep_forecast.forecast(self.sweep, self.ledger, HERE, executor)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    timed = [Stage("training", 1, 10.0, 10.0, ""), Stage("evaluation of best", 1, WORST - 10, EXPECTED - 10, "")]
    monkeypatch.setattr(sweep_forecast, "stages_of", lambda *_: timed)
    return Place(tmp_path)


def test_before_any_run_it_is_what_a_few_steps_say(place: Place) -> None:
    found = place.forecast()
    assert [(kind.runs, kind.seconds, kind.at_most, kind.finished) for kind in found.kinds] == [
        (3, EXPECTED, WORST, 0),
        (3, EXPECTED, WORST, 0),
    ]
    assert (found.seconds, found.at_most) == (6 * EXPECTED, 6 * WORST)
    assert (found.wall_seconds, found.wall_at_most) == (3 * EXPECTED, 3 * WORST)


def test_finished_runs_speak_for_their_kind(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.finish(0, training=20, best=5, last=6)
    place.finish(1, training=30, best=7, last=7)  # the same weights, attacked once
    found = place.forecast()
    sgd, deat = found.kinds
    assert (sgd.runs, sgd.seconds, sgd.at_most, sgd.finished) == (1, (31 + 37) / 2, WORST, 2)
    assert (deat.runs, deat.seconds, deat.at_most, deat.finished) == (3, EXPECTED, WORST, 0)
    assert (found.seconds, found.at_most) == (34 + 3 * EXPECTED, 4 * WORST)
    sweep_forecast.print_forecast(found, as_json=False)
    out = capsys.readouterr().out
    assert "about 0.05 hours of runs (at most 0.12)" in out
    assert "about 34.0 s each (at most 1:50), the mean of 2 finished" in out
    assert "about 50.0 s each (at most 1:50), from a few steps" in out


def test_at_most_is_no_less_than_what_has_been(place: Place) -> None:
    place.finish(0, training=500, best=5, last=6)
    assert place.forecast().kinds[0].at_most == 511


def test_what_is_finished_or_not_timed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kind is timed; the other is known from its runs, or is taken for the mean."""
    monkeypatch.setattr(sweep_forecast, "MAX_TIMED", 1)
    found = place.forecast()
    assert [(kind.seconds, kind.at_most) for kind in found.kinds] == [(EXPECTED, WORST), (None, None)]
    assert (found.seconds, found.at_most) == (6 * EXPECTED, 6 * WORST)
    place.finish(3, training=20, best=5, last=6)
    assert [kind.seconds for kind in place.forecast().kinds] == [EXPECTED, 31]
    for number in range(6):
        place.finish(number, training=20, best=5, last=6)
    done = place.forecast()
    assert (done.left, done.seconds, done.at_most, done.kinds) == (0, 0.0, 0.0, ())


def test_members_of_a_suite_are_expected_to_see_survivors() -> None:
    point = next(iter(parse_sweep(GRID, "tried")))
    config: RunConfig = configured(point, HERE)
    data: Any = SimpleNamespace(test=range(60), num_classes=10)

    def seconds(*names: str) -> tuple[float, float]:
        stage = stages._evaluation("best", names, config, data, 0.0, 1.0)
        return stage.expected, stage.seconds

    alone, suite = seconds("pgd-2"), seconds("autoattack")
    assert alone == (alone[1], 60 * 2)
    assert suite[0] == pytest.approx(SURVIVORS * suite[1])
    assert seconds("pgd-2", "autoattack") == pytest.approx((alone[0] + suite[0], alone[1] + suite[1]))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"seconds": "x", "weights": {}}',
        '{"seconds": 1, "weights": []}',
        '{"seconds": 1, "weights": {"best": 1}}',
        '{"seconds": 1e999, "weights": {}}',
        '{"seconds": NaN, "weights": {}}',
        '{"seconds": -1, "weights": {}}',
        f'{{"seconds": 1{"0" * 400}, "weights": {{}}}}',
    ],
)
def test_a_line_that_does_not_say_is_no_measure(line: str) -> None:
    assert seconds_of(line) is None


def test_a_driver_knows_what_runs_take(place: Place) -> None:
    place.finish(0, training=20, best=5, last=6)
    place.finish(4, training=30, best=7, last=7)
    with place.ledger.locked():
        driver = Driver(place.sweep, place.plan, place.ledger, HERE)
    assert driver.standing().mean_seconds == (31 + 37) / 2
    assert place.ledger.standing().mean_seconds is None


# -- the time that is left, on the screen

STANDING = Standing(100, 100, 50, {"a": "", "b": ""}, {}, {"a": "", "b": ""}, mean_seconds=60.0)


def test_time_left_is_known_from_earlier_runs_before_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(sweep_screen.time, "monotonic", lambda: clock.now)
    watch = LineWatch("tried")
    watch.show(STANDING)
    assert watch.summary() == f"tried: {sweep_screen.counts(STANDING)}, about {60 * 49 // 2 // 60}:30 left"
    watch.show(replace(STANDING, mean_seconds=None))
    assert "left" not in watch.summary().removeprefix(f"tried: {sweep_screen.counts(STANDING)}")
    watch.show(replace(STANDING, running={}))
    assert "about" not in watch.summary()


def test_time_left_follows_the_pace_once_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(sweep_screen.time, "monotonic", lambda: clock.now)
    watch = LineWatch("tried")
    watch.show(STANDING)
    clock.now = 100.0
    watch.show(replace(STANDING, finished=54))
    assert f"about {60 * 45 // 2 // 60}:30 left" in watch.summary()
    watch.show(replace(STANDING, finished=55))
    assert "about 15:00 left" in watch.summary()
