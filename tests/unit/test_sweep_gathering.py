"""Reading many run folders at once: by processes as by none, and one broken record spoils no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import environment
from cluster_sweeps import alive
from sweep_runs import TINY, make_run

from deatbench.errors import DeatbenchError
from deatbench.store import Home, RunFolder
from deatbench.sweep import Ledger, Planned, Surroundings, by_run, gathering, parse_sweep

RUNS = 30
ORPHAN = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from deatbench.sweep.gathering import _begin

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


class Made:
    """Finished runs in a folder, as `lines_of` is asked for them."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.ledger = Ledger(self.home, "tried")
        plan = self.ledger.plan(
            parse_sweep(TINY + f"axes:\n  seed: {list(range(RUNS))}\n", "tried"), Surroundings("cpu")
        )
        self.runs = by_run(plan)
        for point in plan:
            make_run(self.home, point)

    @property
    def asked(self) -> list[list[Planned]]:
        return list(self.runs.values())


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture
def by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, however few the runs and the cores."""
    monkeypatch.setattr(gathering, "WORTH_A_PROCESS", RUNS // 2)
    monkeypatch.setattr(gathering, "PART", 4)
    monkeypatch.setattr(gathering, "usable_cores", lambda: 2)


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def an_evaluation(folder: RunFolder) -> Path:
    return min(folder.evaluations.iterdir())


BROKEN: dict[str, Callable[[RunFolder], object]] = {
    "cut off": lambda run: run.training.write_text(run.training.read_text()[:200]),
    "a bomb": lambda run: run.training.write_text("[" * 100_000),
    "no UTF-8": lambda run: run.training.write_bytes(b"\xff"),
    "of another run": lambda run: edited(run.training, id="digits-resnet8-pgd-at-000000-s0"),
    "without the chosen weights": lambda run: edited(run.training, chosen="swa"),
    "time runs back": lambda run: edited(run.training, seconds=-1.0),
    "too large": lambda run: edited(run.training, config={"recipe": "x" * 5_000_000}),
    "epochs are no UTF-8": lambda run: run.metrics.write_bytes(b"\xff\n"),
    "an epoch is none": lambda run: run.metrics.write_text("{\n"),
    "an epoch rounds to infinity": lambda run: edited(run.metrics, lr=1.7976931348623157e308),
    "verdicts do not fit": lambda run: edited(an_evaluation(run), metrics={}),
    "not a number": lambda run: an_evaluation(run).write_text('{"seconds": NaN}'),
}


def test_processes_read_what_one_reads_and_in_its_order(made: Made, by_two: None) -> None:
    several = gathering.lines_of(made.home, made.asked)
    one_by_one = {points[0].run_id: gathering.line_of(made.home, points) for points in made.asked}
    assert list(several.items()) == list(one_by_one.items())
    assert list(several) == list(made.runs)


def test_what_is_broken_or_missing_spoils_nothing_else(made: Made, by_two: None) -> None:
    whole = gathering.lines_of(made.home, made.asked)
    spoiled = dict(zip(list(made.runs)[3:], BROKEN, strict=False))
    for run_id, how in spoiled.items():
        folder = made.home.run(run_id)
        if how == "an epoch rounds to infinity":
            folder.metrics.write_text(folder.metrics.read_text().splitlines()[0])
        BROKEN[how](folder)
    last = list(made.runs)[-1]
    an_evaluation(made.home.run(last)).unlink()
    found = gathering.lines_of(made.home, made.asked)
    assert set(spoiled.values()) == set(BROKEN)
    assert found == {run_id: line for run_id, line in whole.items() if run_id not in spoiled and run_id != last}
    for run_id, how in spoiled.items():
        with pytest.raises(DeatbenchError) as told:
            gathering.line_of(made.home, made.runs[run_id])
        assert run_id in str(told.value), how
        assert "\n" not in str(told.value), how
    assert gathering.line_of(made.home, made.runs[last]) is None
    assert made.ledger.finished(made.runs) >= found.keys()  # which looks for files only


def test_processes_that_die_are_done_without(
    made: Made, by_two: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = gathering.lines_of(made.home, made.asked)
    monkeypatch.setattr(gathering, "_begin", os.abort)
    assert list(gathering.lines_of(made.home, made.asked).items()) == list(expected.items())


def test_few_runs_are_read_without_processes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "ProcessPoolExecutor", None)
    assert len(gathering.lines_of(made.home, made.asked)) == RUNS
    assert gathering.lines_of(made.home, []) == {}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_reader_ends_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment(), stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        reader = int(driver.stdout.readline())
        assert alive(reader)
        os.kill(driver.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(reader) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(reader)
