"""Killed at any instant and started again, a training run ends with the bits of the run that was never killed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from small_runs import BATCHES, RUNS, Notes, Nursery, nursery, outcome, run

from deatbench.engine import train as engine_train
from deatbench.engine.monitor import Monitor
from deatbench.errors import ConfigError
from deatbench.records import TrainingRecord
from deatbench.store import Home, RunFolder, read_record

SAVE_EVERY = 0.05  # seconds: so that kills also fall between states saved in the middle of an epoch
KILLS = 6  # under each name
# Before a kill wait until a word has been said so many times, then a moment of at most so many seconds.
INSTANTS = {"start": (1, 0.3), "batch": (BATCHES, 0.02), "measure": (2, 0.1), "write": (12, 0.004)}


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """The finished run of a name, made when first asked for."""
    return cache(lambda name: run(tmp_path_factory.mktemp("undisturbed"), name))


def kill(children: Nursery, home: Path, name: str, instants: random.Random, word: str) -> bool:
    """Start a child and kill it; whether it was still alive."""
    times, seconds = INSTANTS[word]
    child = children.start(home, name, save_every=SAVE_EVERY)
    child.until(word, instants.randint(1, times))
    time.sleep(instants.random() * seconds)
    child.send(signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    return child.exit_code == -signal.SIGKILL


def check(folder: RunFolder, undisturbed: RunFolder) -> None:
    found, expected = outcome(folder), outcome(undisturbed)
    assert {key: found[key] == expected[key] for key in found} == dict.fromkeys(expected, True)
    assert not list(folder.path.glob(".*.tmp"))  # what was half written when a kill came


def test_killed(children: Nursery, undisturbed: Callable[[str], RunFolder], tmp_path: Path) -> None:
    child = children.start(tmp_path, save_every=SAVE_EVERY)
    assert child.until("batch", 2 * BATCHES + 7)  # in the third epoch
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    folder = run(tmp_path)
    check(folder, undisturbed("deat-ema"))
    assert read_record(folder.training, TrainingRecord).resumed == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_again_and_again(
    name: str,
    children: Nursery,
    undisturbed: Callable[[str], RunFolder],
    tmp_path: Path,
) -> None:
    """More than fifty kills of all runs together: right after the start, in steps, while it validates or saves."""
    instants = random.Random(name)
    words = [*INSTANTS, *instants.choices([*INSTANTS], k=KILLS - len(INSTANTS))]
    instants.shuffle(words)
    started = 0
    for word in words:
        while not kill(children, tmp_path / str(started), name, instants, word):  # it was faster: to the next one
            check(run(tmp_path / str(started), name), undisturbed(name))
            started += 1
    check(run(tmp_path / str(started), name), undisturbed(name))
    print(f"{len(words)} kills in {started + 1} runs of {name}")


def test_a_finished_run_is_left_alone(undisturbed: Callable[[str], RunFolder], tmp_path: Path) -> None:
    source = undisturbed("deat-ema")
    folder = RunFolder(tmp_path / "runs" / source.path.name)
    shutil.copytree(source.path, folder.path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    notes = Notes()
    run(tmp_path, monitor=notes)
    assert {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()} == before
    assert notes.with_words("already trained")


def test_two_runs_on_one_folder(children: Nursery, tmp_path: Path) -> None:
    child = children.start(tmp_path)
    assert child.until("batch")
    with pytest.raises(ConfigError, match="in use by another run") as refusal:
        run(tmp_path)
    assert "\n" not in str(refusal.value)
    child.send(signal.SIGKILL)
    child.wait()


def test_states_are_saved_between_epochs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By time as well as by epoch: a long epoch does not put hours at risk."""
    monkeypatch.setattr(engine_train, "SAVE_EVERY_SECONDS", 0.0)
    steps: set[int] = set()

    class Watching(Monitor):
        def advance(self, amount: float, status: str = "") -> None:
            for path in Home(tmp_path).runs.glob("*/checkpoint-*.pt"):
                steps.add(int(path.name.split("-")[1]))

    run(tmp_path, monitor=Watching())
    assert {1, 2, 11, 27} <= steps
