"""Whole sweeps of runs of two seconds: what they leave behind, and that no kill changes it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Done, call, environment, files
from sweep_runs import TINY, results

from deatbench.records import EvaluationRecord, TrainingRecord
from deatbench.store import Home, read_record
from deatbench.sweep import Ledger, Surroundings, configured, load_sweep
from deatbench.sweep.task import Outcome, Task, attempt

MIXED = TINY + "axes: {seed: [0]}\npoints:\n  - {label: diverges, seed: 0, optimizer.lr: 1.0e+30}\n"
GRID = TINY + "axes:\n  update: {sgd: {}, deat: {method: deat}}\n  seed: [0, 1]\n"


# -- a sweep of two runs, one of which cannot go well


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(MIXED)
    return folder


@pytest.fixture(scope="module")
def ended(mixed: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(mixed, "mixed.yaml", "--retries", "1"), **popen(mixed), check=False)  # type: ignore[call-overload,no-any-return]


def test_the_others_finish_and_the_failure_is_told(mixed: Path, ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 1
    assert "mixed: 1 of 2 runs finished, 1 failed" in ended.stdout
    assert "diverges" in ended.stdout
    assert "failed for good" in ended.stdout
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: 1 of 2 runs failed")
    assert "they would fail alike again" in last
    (failure,) = files(mixed / "sweeps" / "mixed" / "failures")
    assert json.loads(failure.read_text())["attempts"] == 1


def test_a_point_is_a_run_like_any_other_but_for_the_zoo(mixed: Path, ended: object) -> None:
    (result,) = results(mixed / "sweeps" / "mixed" / "results.jsonl")
    folder = Home(mixed).run(result["run_id"])
    training = read_record(folder.training, TrainingRecord)
    assert training.command.startswith("deatbench run --arch resnet8 --method pgd-at --dataset digits")
    assert result["digest"] == training.digest
    assert result["weights"].keys() == {"best", "last"}
    assert result["weights"]["best"]["metrics"].keys() == {"clean_acc", "pgd-2", "apgd-ce", "worst_case_acc"}
    assert len(result["epochs"]["lr"]) == 2
    assert not folder.checkpoints()
    assert not (mixed / "model_zoo").exists()
    assert not files(mixed / "sweeps" / "mixed" / "running")


def test_a_dry_run_counts_and_writes_nothing(mixed: Path, ended: object, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in files(mixed)}
    done = call(capsys, "sweep", mixed / "mixed.yaml", "--home", mixed, "--dry-run", "--json", "--jobs", "1")
    document: dict[str, Any] = json.loads(done.out)
    assert (document["runs"], document["finished"], document["left"]) == (2, 1, 1)
    assert 0 < document["seconds"] == document["wall_seconds"] < 600
    assert {path: path.read_bytes() for path in files(mixed)} == before


def test_a_report_that_nobody_writes_is_refused_before_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "typo.yaml").write_text(TINY + "axes: {seed: [0]}\nreport: tabel2\n")
    done = call(capsys, "sweep", tmp_path / "typo.yaml", "--home", tmp_path / "home", "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert "unknown report 'tabel2' (did you mean table2?" in done.err
    assert not (tmp_path / "home").exists()


def test_thousands_of_runs_are_not_timed_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = f"  seed: {list(range(500))}\n"
    (tmp_path / "many.yaml").write_text(TINY + f"axes:\n{seeds}  optimizer.lr: [0.01, 0.02, 0.03, 0.04]\n")
    done = call(capsys, "sweep", tmp_path / "many.yaml", "--home", tmp_path / "home", "--dry-run")
    assert "many: 2,000 runs, 0 finished, 2,000 left" in done.out
    assert done.out.count("like ") == 1
    assert not (tmp_path / "home").exists()


def test_half_an_evaluation_that_stands_in_the_way_is_dropped(mixed: Path, ended: object) -> None:
    """As when it was begun with another number of threads: the second attempt begins it anew."""
    (result,) = results(mixed / "sweeps" / "mixed" / "results.jsonl")
    home, point = Home(mixed), next(iter(load_sweep(str(mixed / "mixed.yaml"))))
    folder = home.run(result["run_id"])
    path = folder.evaluations / f"best-{result['evaluation']}.json"
    verdicts = read_record(path, EvaluationRecord).samples
    progress = home.evaluations / ".unfinished" / read_record(path, EvaluationRecord).id
    path.unlink()
    progress.mkdir(parents=True)
    (progress / "key.json").write_text('{"workers": 64}')
    config = configured(point, Surroundings("cpu")).model_dump(mode="json")
    task = Task(folder.path.name, config, "deatbench run", mixed, None, mixed / "progress.json")
    assert "progress of another evaluation" in str(attempt(task).error)
    assert attempt(replace(task, again=True)) == Outcome(task.run_id)
    assert read_record(path, EvaluationRecord).samples == verdicts
    assert not (mixed / "progress.json").exists()


# -- kills


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "deatbench", "sweep", *words, "--home", str(home), "--threads", "1"]


def popen(home: Path) -> dict[str, Any]:
    pipe = subprocess.PIPE
    return {"cwd": home, "env": environment(), "stdout": pipe, "stderr": pipe, "text": True}


@contextmanager
def driver(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A driver in a session of its own, of which nothing is left afterwards."""
    with subprocess.Popen(
        command(home, "grid.yaml", "--jobs", "2", *words), **popen(home), start_new_session=True
    ) as p:
        try:
            yield p
        finally:
            with suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGKILL)


def ends(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=200)
    return Done(process.returncode, out, err)


def workers(home: Path) -> list[int]:
    """Those that have a run in work."""
    found = []
    for path in (home / "sweeps" / "grid" / "running").glob("*.json"):
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text())["pid"])
    return found


def wait_for_workers(home: Path, count: int = 1) -> list[int]:
    deadline = time.monotonic() + 100
    while len(found := workers(home)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(alive(pid) for pid in pids)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], float]:
    """Results, and the seconds that they took."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "grid.yaml").write_text(GRID)
    started = time.monotonic()
    with driver(folder) as process:
        assert ends(process).code == 0
    return results(Ledger(Home(folder), "grid").results), time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_driver_killed_at_any_instant(
    home: Path, seed: int, uninterrupted: tuple[list[dict[str, Any]], float]
) -> None:
    expected, seconds = uninterrupted
    draws = random.Random(seed)
    for _ in range(3):
        with driver(home) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(draws.uniform(0.1, 1.1) * seconds)
            process.kill()  # its workers see to themselves
            busy = workers(home)
            process.wait()
            assert gone(busy, 30)
    with driver(home) as process:
        assert ends(process).code == 0
    assert results(home / "sweeps" / "grid" / "results.jsonl") == expected


@pytest.mark.slow
def test_a_new_driver_waits_for_the_workers_of_a_killed_one(
    home: Path, uninterrupted: tuple[list[dict[str, Any]], float]
) -> None:
    with driver(home) as process:
        wait_for_workers(home)
        process.kill()
        process.wait()
        with driver(home) as second:
            done = ends(second)
    assert (done.code, "failed" in done.err) == (0, False)
    assert results(home / "sweeps" / "grid" / "results.jsonl") == uninterrupted[0]


@pytest.mark.slow
def test_killed_workers(home: Path, uninterrupted: tuple[list[dict[str, Any]], float]) -> None:
    draws = random.Random(0)
    with driver(home, "--retries", "9") as process:
        for _ in range(4):
            pid = draws.choice(wait_for_workers(home))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(draws.uniform(0, 5))
        done = ends(process)
    assert done.code == 0
    assert "its worker process died; to be tried again" in done.err
    assert results(home / "sweeps" / "grid" / "results.jsonl") == uninterrupted[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(home: Path, number: signal.Signals, uninterrupted: tuple[list[dict[str, Any]], float]) -> None:
    """Ctrl-C reaches everybody that hangs on the terminal, SIGTERM the driver alone."""
    with driver(home) as process:
        busy = wait_for_workers(home, 2)
        with driver(home) as second:
            refused = ends(second)
        assert refused.code == 2
        assert "sweep grid is being run by another process" in refused.err
        started = time.monotonic()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        done = ends(process)
        assert time.monotonic() - started < 20
    assert done.code == 130
    assert done.err.splitlines()[-1].startswith("error: stopped: ")
    assert "Traceback" not in done.err
    assert gone(busy, 1)
    with driver(home) as process:
        assert ends(process).code == 0
    assert results(home / "sweeps" / "grid" / "results.jsonl") == uninterrupted[0]
