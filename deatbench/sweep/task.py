"""One run of a sweep as executors see it: a task of plain data goes to a worker, an outcome comes back."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock

from deatbench.engine.monitor import Monitor
from deatbench.errors import DeatbenchError, DivergedError, InterruptedRun
from deatbench.store import Home, RunFolder, atomic_write_text

TELL_EVERY_SECONDS = 2.0
TRACE_LINES = 20
STOPPED = "its worker was told to stop"  # the error of a run that saved itself on a signal


@dataclass(frozen=True)
class Task:
    """A run to be done by whoever gets this: all it needs, as plain data.

    Args:
        run_id: the run; `config` is its complete configuration.
        command: the `deatbench run` that would do the same, for its records.
        home: the working folder, seen by the worker under the same path.
        data_dir: where data sets lie.
        progress: the file in which the worker says how far it is.
        device: "cpu", "cuda" or "cuda:1".
        threads: CPU threads.
        again: whether an attempt failed before.
    """

    run_id: str
    config: dict[str, Any]
    command: str
    home: Path
    data_dir: Path | None
    progress: Path
    device: str = "cpu"
    threads: int = 1
    again: bool = False


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: well, or with an `error` in one line; of an unforeseen one the end of its traceback.

    `lasting`: another attempt would end alike.
    """

    run_id: str
    error: str | None = None
    trace: str = ""
    lasting: bool = False


def attempt(task: Task) -> Outcome:
    """Do the run, or what is left of it, in this process. Never raises; SIGTERM ends it with its state saved."""
    try:
        with _stopped_by_sigterm(), _Telling(task.progress) as monitor:
            _run(task, monitor)
    except (InterruptedRun, KeyboardInterrupt):
        return Outcome(task.run_id, STOPPED)
    except Exception as error:
        if isinstance(error, DeatbenchError):
            return Outcome(task.run_id, " ".join(str(error).split()), lasting=isinstance(error, DivergedError))
        trace = "".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:]
        return Outcome(task.run_id, " ".join(f"{type(error).__name__}: {error}".split()), "\n".join(trace))
    return Outcome(task.run_id)


def _run(task: Task, monitor: Monitor) -> None:
    import torch

    from deatbench import pipeline
    from deatbench.config import validate_config

    torch.set_num_threads(task.threads)
    home = Home(task.home)
    machine = pipeline.Machine(home, torch.device(task.device), task.data_dir, task.command)
    folder = home.run(task.run_id)
    with _alone_with(folder, monitor):
        if task.again:
            _forget_evaluations(home, task.run_id)
        pipeline.run(validate_config(task.config), machine, publish=False, monitor=monitor)
        for state in folder.checkpoints():  # of no use to a finished run, and most of what it weighs
            state.unlink()


@contextmanager
def _alone_with(folder: RunFolder, monitor: Monitor) -> Iterator[None]:
    """Wait for whoever has the same run in work: another sweep, or the worker of a driver that was killed."""
    folder.path.mkdir(parents=True, exist_ok=True)
    monitor.start("waiting for another process", 0)
    with FileLock(folder.path / ".sweep.lock", poll_interval=0.2):
        yield


def _forget_evaluations(home: Home, run_id: str) -> None:
    """Drop what is half done of a run's evaluations: it may be why the attempt before failed."""
    from deatbench.engine.progress import SavedProgress

    for path in (home.evaluations / ".unfinished").glob(f"{run_id}-*"):
        SavedProgress.forget(path)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Telling(Monitor):
    """Writes how far the run is into a file, now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._title, self._status, self._total, self._done, self._told = "starting", "", 0.0, 0.0, 0.0

    def __enter__(self) -> _Telling:
        self._tell()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def start(self, title: str, total: float) -> None:
        self._title, self._status, self._total, self._done = title, "", total, 0.0
        self._tell()

    def advance(self, amount: float, status: str = "") -> None:
        self._done += amount
        self._status = status or self._status
        if time.monotonic() - self._told > TELL_EVERY_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        share = f" {min(self._done / self._total, 1.0):.0%}" if self._total else ""
        text = json.dumps({"pid": os.getpid(), "progress": f"{self._title}{share}  {self._status}".rstrip()})
        with suppress(DeatbenchError):  # no reason to end a run
            atomic_write_text(self._path, text + "\n")
