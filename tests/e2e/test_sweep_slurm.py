"""Sweeps by submitit, with its own local executor in place of Slurm: jobs are warned and killed, a driver is killed."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import call
from cluster_sweeps import NAME, alive, at_work, driver, finish, kill, log_of, outcome, wait_for, write_sweep

from deatbench.errors import ConfigError
from deatbench.sweep.executors import Needs
from deatbench.sweep.executors.slurm import Slurm, settings_of
from deatbench.sweep.executors.slurm_job import STOPPED

RUNS, EPOCHS = 3, 20
LOCAL = {"DEATBENCH_SLURM": "cluster=local time=30"}
SUBMITTING = ("--executor", "slurm", "--jobs", "2")


def jobs(home: Path) -> dict[str, str]:
    """Ids of jobs by run, as a driver has left them."""
    path = home / "sweeps" / NAME / "slurm" / "jobs.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A working folder; jobs that a failed test has left there are ended."""
    pytest.importorskip("submitit")
    yield tmp_path / "home"
    for pid in (*at_work(tmp_path / "home", after="").values(), *map(int, jobs(tmp_path / "home").values())):
        kill(pid)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes out of the sweep when processes of this machine do it undisturbed."""
    home = tmp_path_factory.mktemp("local") / "home"
    with driver(write_sweep(home.parent, RUNS, EPOCHS), home, "--jobs", "1") as process:
        assert finish(process) == 0, log_of(home)
    return outcome(home)


def test_a_missing_package_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = call(capsys, "sweep", write_sweep(tmp_path, 1, 1), "--executor", "slurm", "--home", tmp_path)
    assert (done.code, done.out) == (4, "")
    assert done.err.count("\n") == 1
    assert "pip install 'deatbench[slurm]'" in done.err


def test_no_slurm_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    done = call(capsys, "sweep", write_sweep(tmp_path, 1, 1), "--executor", "slurm", "--home", tmp_path)
    assert (done.code, done.out) == (4, "")
    assert done.err.count("\n") == 1
    assert "no srun" in done.err


def test_settings() -> None:
    found = settings_of("partition=gpu time=90 setup='module load cuda' gres=gpu:a100:1")
    assert found == {"partition": "gpu", "time": 90, "setup": ["module load cuda"], "gres": "gpu:a100:1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partiton=gpu", "partition"),
        ("time=4:00:00", "time=240 is minutes"),
        ("partition", "needs a value"),
        ("account=", "needs a value"),
        ("cluster=here", "neither slurm nor local"),
        ("setup='module", "quotation"),
    ],
)
def test_bad_settings_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        settings_of(text)
    assert "\n" not in str(refusal.value)


def test_parts_of_a_gpu_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match="whole GPUs"):
        Slurm(Needs(tmp_path, device="cuda", gpus=0.5))


def test_a_job(home: Path, tmp_path: Path) -> None:
    """One run of an epoch, by a job of its own, that leaves nothing behind but its results."""
    sweep = write_sweep(tmp_path, 1, 1)
    with driver(sweep, home, *SUBMITTING, **LOCAL) as process:
        assert finish(process) == 0, log_of(home)
    assert len(outcome(home)["results"]) == 1
    assert jobs(home) == {}
    assert [path.name for path in (home / "sweeps" / NAME / "slurm").iterdir()] == ["jobs.json"]


@pytest.mark.slow
def test_jobs_that_are_warned_and_killed(expected: dict[str, Any], home: Path, tmp_path: Path) -> None:
    """Warned, a job saves and goes back into the queue: no attempt has failed. Killed, one has."""
    sweep = write_sweep(tmp_path, RUNS, EPOCHS)
    with driver(sweep, home, *SUBMITTING, **LOCAL) as process:
        warned, pid = next(iter(wait_for(lambda: at_work(home), process).items()))
        kill(pid, signal.SIGUSR2)  # as submitit has Slurm do it
        wait_for(lambda: at_work(home, after="").get(warned, pid) != pid, process)
        log = log_of(home)
        assert "failed" not in log
        killed, pid = next((run, pid) for run, pid in wait_for(lambda: at_work(home), process).items())
        kill(pid)
        assert finish(process) == 0, log_of(home)
    assert log_of(home).count("to be tried again") == 1
    assert f"{killed} (seed={killed[-1]}): failed: its job" in log_of(home)
    assert outcome(home) == expected


@pytest.mark.slow
def test_a_driver_that_is_killed_finds_its_jobs(expected: dict[str, Any], home: Path, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, RUNS, EPOCHS)
    with driver(sweep, home, *SUBMITTING, **LOCAL) as process:
        pids = wait_for(lambda: found if len(found := at_work(home)) == 2 else None, process)
        for pid in pids.values():
            kill(pid, signal.SIGSTOP)  # or they might be done before the next driver looks
        process.send_signal(signal.SIGKILL)
    before, said = jobs(home), log_of(home)
    with driver(sweep, home, *SUBMITTING, **LOCAL) as process:
        wait_for(lambda: log_of(home) != said, process)  # it is at work
        assert (before.keys(), jobs(home)) == (pids.keys(), before)
        for pid in pids.values():
            kill(pid, signal.SIGCONT)
        again = wait_for(lambda: at_work(home), process)
        assert again.items() <= pids.items(), "the same processes are at work"
        assert finish(process) == 0, log_of(home)
    assert "failed" not in log_of(home)
    assert (jobs(home), outcome(home)) == ({}, expected)


@pytest.mark.slow
def test_interrupted_jobs_save_and_stop(expected: dict[str, Any], home: Path, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, RUNS, EPOCHS)
    with driver(sweep, home, *SUBMITTING, **LOCAL) as process:
        pids = wait_for(lambda: at_work(home), process)
        process.send_signal(signal.SIGTERM)
        assert finish(process) == 130
    assert not any(alive(pid) for pid in pids.values())
    assert jobs(home) == {}
    assert STOPPED not in log_of(home)
    with driver(sweep, home, *SUBMITTING, **LOCAL) as process:
        assert finish(process) == 0, log_of(home)
    assert outcome(home) == expected
