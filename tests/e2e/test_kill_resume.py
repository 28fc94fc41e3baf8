"""Killed at any instant and started again, a training run ends with the bits of the run that was never killed."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from deatbench.engine import train as engine_train
from deatbench.engine.monitor import Monitor
from deatbench.errors import ConfigError
from deatbench.pipeline import Machine, configure, train
from deatbench.records import EpochMetrics, TrainingRecord
from deatbench.store import Home, RunFolder, read_record

CHECKOUT = Path(__file__).resolve().parents[2]
OVERRIDES = ["epochs=4", "batch_size=64", "attack.steps=2", "arch.width=0.25", "ema=0.9"]
BATCHES = 4 * 20
SAVE_EVERY = 0.05  # seconds: so that kills also fall between states saved in the middle of an epoch

CHILD = """
    import sys
    import torch
    torch.set_num_threads(1)
    sys.path[:0] = [{checkout!r}, {here!r}]
    from pathlib import Path
    from deatbench.engine import train as engine_train
    from deatbench.engine.monitor import Monitor
    from deatbench.errors import DeatbenchError
    from test_kill_resume import SAVE_EVERY, run

    class Telling(Monitor):
        def advance(self, amount, status=""):
            print("batch", flush=True)

    engine_train.SAVE_EVERY_SECONDS = SAVE_EVERY
    try:
        run(Path({home!r}), Telling())
    except DeatbenchError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


def run(home: Path, monitor: Monitor | None = None) -> RunFolder:
    """Train, or continue, the run of this file under `home`."""
    device = torch.device("cpu")
    config = configure(
        arch="resnet8", method="deat", dataset="digits", recipe="digits", overrides=OVERRIDES, device=device
    )
    return train(config, Machine(Home(home), device), monitor=monitor)


@contextmanager
def child(home: Path) -> Iterator[subprocess.Popen[str]]:
    """The same in another process, which writes a line for every batch."""
    program = textwrap.dedent(CHILD).format(checkout=str(CHECKOUT), here=str(Path(__file__).parent), home=str(home))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_batches(process: subprocess.Popen[str], batches: int) -> None:
    assert process.stdout is not None
    for _ in range(batches):
        if not process.stdout.readline():
            return  # it has finished


def outcome(folder: RunFolder) -> dict[str, Any]:
    """All that a run leaves behind, without times and without how often it was resumed."""
    record = read_record(folder.training, TrainingRecord)
    lines = [EpochMetrics.model_validate_json(line) for line in folder.metrics.read_text().splitlines()]
    return {
        "best": folder.weights("best").read_bytes(),
        "last": folder.weights("last").read_bytes(),
        "metrics": [line.model_dump(exclude={"seconds", "images_per_second"}) for line in lines],
        "best_epoch": record.best_epoch,
        "hashes": record.weights,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("undisturbed"))


def kill_and_finish(home: Path, instants: random.Random, kills: int) -> RunFolder:
    for _ in range(kills):
        with child(home) as process:
            wait_for_batches(process, instants.randrange(1, BATCHES // 2))
            time.sleep(instants.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.returncode in (-signal.SIGKILL, 0)
    return run(home)


def test_killed(undisturbed: RunFolder, tmp_path: Path) -> None:
    folder = kill_and_finish(tmp_path, random.Random(1), kills=1)
    assert outcome(folder) == outcome(undisturbed)
    assert read_record(folder.training, TrainingRecord).resumed >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again(seed: int, undisturbed: RunFolder, tmp_path: Path) -> None:
    assert outcome(kill_and_finish(tmp_path, random.Random(seed), kills=8)) == outcome(undisturbed)


@pytest.mark.slow  # test_commands.py sends SIGTERM to the command itself
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_130(number: signal.Signals, undisturbed: RunFolder, tmp_path: Path) -> None:
    with child(tmp_path) as process:
        wait_for_batches(process, 27)  # the first is the start
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert f"{number.name}: stopped in epoch 2" in stderr
    assert "\n" not in stderr.strip()
    (folder,) = (RunFolder(path) for path in Home(tmp_path).runs.iterdir())
    assert len(folder.checkpoints()) >= 1
    assert not folder.finished
    assert outcome(run(tmp_path)) == outcome(undisturbed)


# -- damaged states


class Notes(Monitor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("owned",))


def explode(path: Path) -> None:
    """A pickle that would execute code, with the right checksum in its name."""
    data = pickle.dumps(_Bomb(), protocol=2)
    path.unlink()
    step = path.stem.split("-")[1]
    path.with_name(f"checkpoint-{step}-{hashlib.sha256(data).hexdigest()[:16]}.pt").write_bytes(data)


@pytest.fixture
def unfinished(undisturbed: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the undisturbed run as if it had died just before its last words."""
    folder = RunFolder(tmp_path / "runs" / undisturbed.path.name)
    shutil.copytree(undisturbed.path, folder.path)
    folder.training.unlink()
    folder.weights("last").unlink()
    assert len(folder.checkpoints()) == 2
    return folder


@pytest.mark.parametrize("damage", [flip, truncate, empty, explode])
def test_a_damaged_state_falls_back_to_the_one_before(
    damage: Callable[[Path], None],
    unfinished: RunFolder,
    undisturbed: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(unfinished.checkpoints()[-1])
    notes = Notes()
    assert outcome(run(tmp_path, notes)) == outcome(undisturbed)
    assert any("passing over damaged" in line for line in notes.lines)
    assert any("continuing" in line and "after epoch 3" in line for line in notes.lines)
    assert not (tmp_path / "owned").exists()


def test_two_damaged_states_start_over(unfinished: RunFolder, undisturbed: RunFolder, tmp_path: Path) -> None:
    for path in unfinished.checkpoints():
        truncate(path)
    notes = Notes()
    assert outcome(run(tmp_path, notes)) == outcome(undisturbed)
    assert not any("continuing" in line for line in notes.lines)


def test_a_finished_run_is_left_alone(undisturbed: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / undisturbed.path.name)
    shutil.copytree(undisturbed.path, folder.path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    notes = Notes()
    run(tmp_path, notes)
    assert {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()} == before
    assert any("already trained" in line for line in notes.lines)


def test_two_runs_on_one_folder(undisturbed: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / undisturbed.path.name)
    with folder.locked(), pytest.raises(ConfigError, match="in use by another run"):
        run(tmp_path)


def test_states_are_saved_between_epochs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By time as well as by epoch: a long epoch does not put hours at risk."""
    monkeypatch.setattr(engine_train, "SAVE_EVERY_SECONDS", 0.0)
    steps: set[int] = set()

    class Watching(Monitor):
        def advance(self, amount: float, status: str = "") -> None:
            for path in Home(tmp_path).runs.glob("*/checkpoint-*.pt"):
                steps.add(int(path.name.split("-")[1]))

    run(tmp_path, Watching())
    assert {1, 2, 21, 37} <= steps
