"""The books of a sweep: what counts as finished, what is read again, how failures are kept and tried again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from cli_runs import call, files
from records_factory import ENV
from sweep_runs import TINY, make_run, results

from deatbench.errors import ConfigError, MissingError
from deatbench.records import SweepResult
from deatbench.store import Home
from deatbench.sweep import Driver, Ledger, Planned, Standing, Surroundings, Sweep, by_run, parse_sweep
from deatbench.sweep.task import Outcome, Task

GRID = TINY + "axes:\n  update: {sgd: {}, deat: {method: deat}}\n  seed: [0, 1]\n"
HERE = Surroundings("cpu")


@dataclass
class Scripted:
    """An executor that makes finished runs, or fails as often as it is told to."""

    home: Home
    points: dict[str, Planned]
    failures: dict[str, int] = field(default_factory=dict)
    lasting: bool = False
    slots: int = 2
    threads: int = 1
    done: list[str] = field(default_factory=list)
    again: list[bool] = field(default_factory=list)
    out: list[Task] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, task: Task) -> None:
        assert len(self.out) < self.slots
        self.out.append(task)

    def outcomes(self, seconds: float) -> list[Outcome]:
        task = self.out.pop(0)
        self.done.append(task.run_id)
        self.again.append(task.again)
        if self.failures.get(task.run_id, 0) > 0:
            self.failures[task.run_id] -= 1
            return [Outcome(task.run_id, "no luck", "Traceback", self.lasting)]
        make_run(self.home, self.points[task.run_id])
        return [Outcome(task.run_id)]


class Place:
    """A sweep in a folder, with the runs it means."""

    def __init__(self, folder: Path, text: str = GRID) -> None:
        self.home = Home(folder)
        self.sweep: Sweep = parse_sweep(text, "tried")
        self.ledger = Ledger(self.home, "tried")
        self.plan = self.ledger.plan(self.sweep, HERE)
        self.runs = by_run(self.plan)

    def drive(
        self, failures: Sequence[int] = (), retries: int = 2, *, lasting: bool = False
    ) -> tuple[Standing, Scripted]:
        """Run the sweep; the runs, in order, fail so often."""
        often = dict(zip(self.runs, failures, strict=False))
        executor = Scripted(self.home, {p.run_id: p for p in self.plan}, often, lasting)
        with self.ledger.locked(), executor:
            standing = Driver(self.sweep, self.plan, self.ledger, HERE, retries=retries).run(executor)
        return standing, executor


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_result_says_all_that_a_report_needs(place: Place) -> None:
    standing, executor = place.drive()
    assert (standing.finished, standing.left, len(executor.done)) == (4, 0, 4)
    lines = place.ledger.results.read_text().splitlines()
    found = [SweepResult.model_validate_json(line, strict=True) for line in lines]
    assert [result.run_id for result in found] == sorted(place.runs)
    result = next(result for result in found if result.label == "update=deat seed=1")
    assert result.settings == {"update": "deat", "seed": 1}
    best = result.weights["best"]
    assert best.metrics["clean_acc"].value == best.clean_N().mean() == 0.9
    assert best.worst_case_N().mean() == best.metrics["worst_case_acc"].value == 0.55
    assert result.epochs.lr == (0.01, 0.01)
    assert (result.threads, result.torch) == (ENV.threads, ENV.torch)


def test_a_line_whose_numbers_were_changed_does_not_load(place: Place) -> None:
    place.drive()
    line = place.ledger.results.read_text().splitlines()[0]
    changed = json.loads(line)
    changed["weights"]["best"]["metrics"]["clean_acc"]["value"] = 0.95
    with pytest.raises(ValueError, match="do not follow from the verdict bits"):
        SweepResult.model_validate(changed)
    with pytest.raises(ValueError, match="nonsense"):
        SweepResult.model_validate(json.loads(line) | {"nonsense": 1})


def test_what_is_finished_is_not_done_again(place: Place) -> None:
    first = list(place.runs)[:3]
    for run_id in first:
        make_run(place.home, place.runs[run_id][0])
    shutil.rmtree(place.home.run(first[1]).evaluations)  # trained, not attacked
    (place.home.run(first[2]).path / "training.json").unlink()
    standing, executor = place.drive()
    assert sorted(executor.done) == sorted([first[1], *list(place.runs)[2:]])
    assert standing.finished == 4
    assert place.drive()[1].done == []


def test_an_older_line_gives_way_to_younger_records(place: Place) -> None:
    place.drive()
    run_id = next(iter(place.runs))
    before = place.ledger.results.read_bytes()
    make_run(place.home, place.runs[run_id][0], clean=0.97)
    for path in place.home.run(run_id).path.rglob("*.json"):
        os.utime(path, (time.time() + 5, time.time() + 5))
    place.drive()
    changed = [
        r for r in results(place.ledger.results) if r["weights"]["best"]["metrics"]["clean_acc"]["value"] == 0.97
    ]
    assert [result["run_id"] for result in changed] == [run_id]
    assert place.ledger.results.read_bytes() != before


def test_results_outlive_their_run_folders(place: Place) -> None:
    place.drive()
    before = place.ledger.results.read_bytes()
    shutil.rmtree(place.home.runs)
    assert place.ledger.standing().finished == 4
    assert place.drive()[1].done == []
    assert place.ledger.results.read_bytes() == before


def test_results_are_made_again_from_the_run_folders(place: Place) -> None:
    place.drive()
    before = place.ledger.results.read_bytes()
    place.ledger.results.unlink()
    assert place.ledger.standing().finished == 4
    place.drive()
    assert place.ledger.results.read_bytes() == before


def test_another_evaluation_is_another_result(place: Place) -> None:
    """The networks are trained; they are to be attacked in another way."""
    place.drive()
    other = Place(place.home.path, GRID.replace("evaluation.n: 60", "evaluation.n: 50"))
    assert list(other.runs) == list(place.runs)
    assert other.ledger.gather(other.runs) == {}
    standing, executor = other.drive()
    assert (standing.finished, len(executor.done)) == (4, 4)


def test_a_sweep_that_has_grown_does_what_is_new(place: Place) -> None:
    place.drive()
    grown = Place(place.home.path, GRID.replace("seed: [0, 1]", "seed: [0, 1, 2]"))
    standing, executor = grown.drive()
    assert (standing.finished, len(executor.done)) == (6, 2)
    assert grown.ledger.sweep.read_text() == grown.sweep.text


def test_points_are_configured_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.drive()
    monkeypatch.setattr("deatbench.sweep.ledger.planned", None)
    assert place.ledger.plan(place.sweep, HERE) == place.plan


def test_another_version_means_other_runs(place: Place) -> None:
    """As when a default has changed: the first point is not the run on file."""
    place.drive()
    text = place.ledger.points.read_text().replace(place.plan[0].run_id, "digits-resnet8-pgd-at-000000-s0")
    place.ledger.points.write_text(text)
    assert place.ledger.plan(place.sweep, HERE) == place.plan


def test_one_run_for_two_points(tmp_path: Path) -> None:
    place = Place(tmp_path, GRID + "points: [{label: again, seed: 0}]\n")
    standing, executor = place.drive()
    assert (standing.points, standing.runs, len(executor.done)) == (5, 4, 4)
    labels = [[point["label"] for point in result["points"]] for result in results(place.ledger.results)]
    assert sorted(labels) == [
        ["update=deat seed=0"], ["update=deat seed=1"], ["update=sgd seed=0", "again"], ["update=sgd seed=1"]
    ]  # fmt: skip
    Place(tmp_path).drive()
    assert all(len(result["points"]) == 1 for result in results(place.ledger.results))


def test_failures_are_tried_again_and_hold_up_nobody(place: Place) -> None:
    standing, executor = place.drive(failures=(2, 0, 99))
    first, _, third, _ = place.runs
    assert executor.done.count(first) == executor.done.count(third) == 3
    assert [again for run_id, again in zip(executor.done, executor.again, strict=True) if run_id == first] == [
        False, True, True
    ]  # fmt: skip
    assert (standing.finished, list(standing.failed), standing.left) == (3, [third], 0)
    assert standing.failed[third].attempts == 3
    assert standing.labels[third] == "update=deat seed=0"
    assert {path.stem for path in files(place.ledger.failures)} == {third}
    standing, executor = place.drive(failures=(0, 0, 1), retries=0)
    assert (executor.done, standing.failed[third].attempts) == ([third], 4)
    standing, executor = place.drive()
    assert (executor.done, dict(standing.failed)) == ([third], {})
    assert not files(place.ledger.failures)


def test_what_would_fail_alike_is_not_tried_again(place: Place) -> None:
    first = next(iter(place.runs))
    standing, executor = place.drive(failures=(99,), lasting=True)
    assert executor.done.count(first) == standing.failed[first].attempts == 1
    standing, executor = place.drive()
    assert (executor.done, standing.finished, list(standing.failed)) == ([], 3, [first])
    (place.ledger.failures / f"{first}.json").unlink()
    standing, executor = place.drive()
    assert (executor.done, standing.finished, dict(standing.failed)) == ([first], 4, {})


def test_a_run_whose_records_cannot_be_read_has_failed(place: Place) -> None:
    place.drive()
    run_id = next(iter(place.runs))
    place.ledger.results.unlink()
    place.home.run(run_id).metrics.write_text("{\n")
    standing, executor = Place(place.home.path).drive(failures=(99,))
    assert (executor.done, list(standing.failed)) == ([run_id] * 3, [run_id])


def test_one_driver_at_a_time(place: Place) -> None:
    with place.ledger.locked():
        assert place.ledger.held()
        with pytest.raises(ConfigError, match="is being run by another process"), place.ledger.locked():
            pass
    assert not place.ledger.held()


@pytest.mark.parametrize("file", ["points", "results"])
@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", "\x00", '{"run_id": {}, "evaluation": "", "label": "", "settings": []}']
)
def test_a_broken_line_is_named(place: Place, file: str, line: str) -> None:
    place.drive()
    path: Path = getattr(place.ledger, file)
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(ConfigError, match=f"{file}.jsonl: line 1 is no"):
        place.ledger.standing()


def test_status_reads_only(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.drive(failures=(0, 99))
    before = {path: path.read_bytes() for path in files(place.home.path)}
    done = call(capsys, "sweep", "status", place.ledger.folder, "--json")
    document: dict[str, Any] = json.loads(done.out)
    assert (done.code, document["runs"], document["finished"], document["left"]) == (0, 4, 3, 0)
    assert [(failure["error"], failure["attempts"]) for failure in document["failed"]] == [("no luck", 3)]
    text = call(capsys, "sweep", "status", place.ledger.folder)
    assert "tried: 3 of 4 runs finished, 1 failed" in text.out
    assert "no luck" in text.out
    assert {path: path.read_bytes() for path in files(place.home.path)} == before


def test_status_of_what_has_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "sweep", "status", "deat-k1k2-digits", "--home", tmp_path)
    assert (done.code, done.err.count("\n")) == (MissingError.exit_code, 1)
    assert call(capsys, "sweep", "status", tmp_path).code == MissingError.exit_code


@pytest.mark.slow
def test_ten_thousand_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counting and continuing take seconds, with results.jsonl and without."""
    tens = list(range(10))
    text = f"axes:\n  seed: {tens}\n  optimizer.lr: {[0.01 * (1 + i) for i in tens]}\n  epochs: {list(range(1, 101))}\n"
    place = Place(tmp_path, TINY.replace("epochs: 2, ", "") + text)
    assert len(place.runs) == 10_000
    for point in place.plan:
        make_run(place.home, point)

    def seconds(*words: str | Path) -> float:
        started = time.monotonic()
        done = call(capsys, "sweep", *words, "--json")
        assert json.loads(done.out)["finished"] == 10_000
        return time.monotonic() - started

    path = tmp_path / "tried.yaml"
    path.write_text(place.sweep.text)
    with place.ledger.locked():
        place.ledger.begin(place.sweep, place.plan)
    assert seconds("status", place.ledger.folder) < 10
    assert seconds(path, "--home", tmp_path) < 20  # 7 to 9 where nothing else runs on the two cores
    assert seconds("status", place.ledger.folder) < 10
    assert seconds(path, "--home", tmp_path) < 10
