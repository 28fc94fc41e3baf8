"""Disks fill up and bits flip: a run goes on from the newest whole state, and says in one line what happened."""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import BATCHES, Notes, Nursery, nursery, outcome, run

from deatbench.engine import train as engine_train
from deatbench.engine.checkpoint import load_state, save_state
from deatbench.engine.monitor import Monitor
from deatbench.errors import CheckpointError, DeatbenchError, InterruptedRun
from deatbench.records import TrainingRecord
from deatbench.store import Home, RunFolder, read_record

CPU = torch.device("cpu")
EPOCHS = 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def unfinished(undisturbed: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the undisturbed run as if it had died just before its last words."""
    folder = RunFolder(tmp_path / "runs" / undisturbed.path.name)
    shutil.copytree(undisturbed.path, folder.path)
    folder.training.unlink()
    for name in ("last", "ema"):
        folder.weights(name).unlink()
    assert [step(path) for path in folder.checkpoints()] == [(EPOCHS - 1) * BATCHES, EPOCHS * BATCHES]
    return folder


def step(path: Path) -> int:
    return int(path.name.split("-")[1])


def only_folder(home: Path) -> RunFolder:
    (path,) = Home(home).runs.iterdir()
    return RunFolder(path)


# -- damaged states


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
    rename(path, pickle.dumps(_Bomb(), protocol=2))


def nothing(path: Path) -> None:
    """No bytes, with their checksum in its name."""
    rename(path, b"")


def rename(path: Path, data: bytes) -> None:
    path.unlink()
    path.with_name(f"checkpoint-{step(path):08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt").write_bytes(data)


@pytest.mark.parametrize("damage", [flip, truncate, empty, explode, nothing])
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
    assert outcome(run(tmp_path, monitor=notes)) == outcome(undisturbed)
    (said,) = notes.with_words("passing over damaged")
    assert "\n" not in said
    (said,) = notes.with_words("continuing")
    assert f"after epoch {EPOCHS - 1}" in said
    assert not (tmp_path / "owned").exists()
    assert load_state(unfinished, CPU, Monitor()) is not None  # the damaged one has made room for a whole one


def test_a_run_that_died_before_its_last_words(unfinished: RunFolder, undisturbed: RunFolder, tmp_path: Path) -> None:
    assert outcome(run(tmp_path)) == outcome(undisturbed)


def test_two_damaged_states_start_over(unfinished: RunFolder, undisturbed: RunFolder, tmp_path: Path) -> None:
    for path in unfinished.checkpoints():
        truncate(path)
    notes = Notes()
    assert outcome(run(tmp_path, monitor=notes)) == outcome(undisturbed)
    assert len(notes.with_words("passing over damaged")) == 2
    assert not notes.with_words("continuing")


@pytest.mark.parametrize("next_step", [11, 20, 25, 30, 40])
def test_damaged_newer_states_do_not_drive_out_a_whole_one(next_step: int, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save_state(folder, 10, {"step": 10})
    for at in (20, 30):
        (tmp_path / f"checkpoint-{at:08d}-{at:016x}.pt").write_bytes(b"damaged")
    assert load_state(folder, CPU, Monitor()) == {"step": 10}
    new = save_state(folder, next_step, {"step": next_step})
    assert load_state(folder, CPU, Monitor()) == {"step": next_step}
    assert len(folder.checkpoints()) == 2
    if next_step <= 20:
        new.unlink()
        assert load_state(folder, CPU, Monitor()) == {"step": 10}


def test_a_state_of_another_version(unfinished: RunFolder, tmp_path: Path) -> None:
    change_newest(unfinished, layout=1)
    with pytest.raises(CheckpointError, match="another version of deatbench"):
        run(tmp_path)


def change_newest(folder: RunFolder, **changes: Any) -> None:
    state = load_state(folder, CPU, Monitor())
    assert state is not None
    save_state(folder, step(folder.checkpoints()[-1]), state | changes)


# -- other surroundings


def test_another_version_of_torch_is_noted_in_the_record(unfinished: RunFolder, tmp_path: Path) -> None:
    change_newest(unfinished, made_with=["torch 1.0, 1 threads"])
    notes = Notes()
    (flag,) = read_record(run(tmp_path, monitor=notes).training, TrainingRecord).flags
    assert flag.code == "resumed_elsewhere"
    assert f"torch 1.0, 1 threads, then torch {torch.__version__}, 1 threads" in flag.message
    assert notes.with_words(flag.message)


def test_another_number_of_threads_is_noted_in_the_record(children: Nursery, tmp_path: Path) -> None:
    child = children.start(tmp_path, threads=2)
    assert child.until("batch", 2)
    child.send(signal.SIGTERM)
    assert child.wait() == 130
    (flag,) = read_record(run(tmp_path).training, TrainingRecord).flags
    assert flag.code == "resumed_elsewhere"
    assert "2 threads, then" in flag.message


def test_the_same_surroundings_are_no_news(children: Nursery, tmp_path: Path) -> None:
    child = children.start(tmp_path)
    assert child.until("batch", BATCHES + 2)
    child.send(signal.SIGTERM)
    assert child.wait() == 130
    record = read_record(run(tmp_path).training, TrainingRecord)
    assert (record.resumed, record.flags) == (1, ())


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as started:
        yield started


# -- full and read-only disks


class Disk:
    """A small file system of its own where this process may mount one, else the kernel's limit on the size of files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(path)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mounting, capture_output=True, check=False).returncode == 0
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, self._limits[1]))
            return
        with (self.path / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        (self.path / "filler").unlink(missing_ok=True)

    def read_only(self, yes: bool) -> None:
        here = str(self.path)
        above = [["mount", "--bind", here, here], ["mount", "-o", "remount,bind,ro", here]]  # for what is opened anew
        if self.mounted:
            for command in above if yes else [["umount", here]]:
                subprocess.run(command, check=True)
        else:
            for folder in (self.path, *self.path.rglob("*/")):
                folder.chmod(0o500 if yes else 0o700)

    def close(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        while self.path.is_mount():
            subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    small = Disk(tmp_path / "disk")
    yield small
    small.close()


class At(Notes):
    """Does something after a number of batches."""

    def __init__(self, deeds: dict[int, Callable[[], None]]) -> None:
        super().__init__()
        self.deeds, self.batches = deeds, 0

    def advance(self, amount: float, status: str = "") -> None:
        self.batches += int(amount)
        self.deeds.pop(self.batches, lambda: None)()


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    disk: Disk, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the end of an epoch with its weights and metrics; said once when it begins, once when it is over."""
    monkeypatch.setattr(engine_train, "SAVE_EVERY_SECONDS", 0.0)
    notes = At({3: disk.fill, BATCHES + 4: disk.free})
    assert outcome(run(disk.path, monitor=notes)) == outcome(undisturbed)
    (full,) = notes.with_words("cannot write")
    assert "training goes on" in full
    assert "MB" in full
    assert len(notes.with_words("saved again")) == 1


def test_a_disk_that_stays_full_ends_the_run_in_one_line(disk: Disk, undisturbed: RunFolder) -> None:
    """The epochs before are safe; with room again, the same command goes on."""
    with pytest.raises(DeatbenchError, match="cannot write") as refusal:
        run(disk.path, monitor=At({BATCHES + 3: disk.fill}))
    assert refusal.value.exit_code == 1
    assert "needs" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    folder = only_folder(disk.path)
    state = load_state(folder, CPU, Monitor())
    assert state is not None
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert not list(folder.path.glob(".*.tmp"))
    disk.free()
    assert outcome(run(disk.path)) == outcome(undisturbed)


def test_a_signal_on_a_full_disk_does_not_claim_to_have_saved(disk: Disk, undisturbed: RunFolder) -> None:
    def fill_and_stop() -> None:
        disk.fill()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(DeatbenchError, match="cannot write") as refusal:
        run(disk.path, monitor=At({BATCHES + 3: fill_and_stop}))
    assert not isinstance(refusal.value, InterruptedRun)
    disk.free()
    assert outcome(run(disk.path)) == outcome(undisturbed)


def test_a_disk_that_becomes_read_only(disk: Disk, undisturbed: RunFolder) -> None:
    notes = At({BATCHES - 1: lambda: disk.read_only(True), BATCHES + 1: lambda: disk.read_only(False)})
    assert outcome(run(disk.path, monitor=notes)) == outcome(undisturbed)
    assert len(notes.with_words("cannot write")) == 1


def test_a_read_only_folder_is_refused_before_anything_is_trained(disk: Disk) -> None:
    disk.read_only(True)
    notes = At({})
    with pytest.raises(DeatbenchError, match="cannot write") as refusal:
        run(disk.path, monitor=notes)
    disk.read_only(False)
    assert refusal.value.exit_code == 1
    assert "\n" not in str(refusal.value)
    assert notes.batches == 0
