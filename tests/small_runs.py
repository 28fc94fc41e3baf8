"""Whole training runs of seconds, here or in processes that can be killed.

A child tells what it is about to do, a word a line on its stdout: `start`, `attack`, `batch` (is done), `measure`,
`write`, at the end `exit CODE`. It is forked from a process that has imported torch, so that a start takes no seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from deatbench.engine import step as engine_step
from deatbench.engine import train as engine_train
from deatbench.engine.monitor import Monitor
from deatbench.errors import DeatbenchError
from deatbench.pipeline import Machine, configure, train
from deatbench.records import EpochMetrics, TrainingRecord
from deatbench.store import Home, RunFolder, read_record

TESTS = Path(__file__).resolve().parent
BATCHES = 10  # an epoch
SHORT = ["epochs=3", "batch_size=128", "attack.steps=2", "arch.width=0.125"]

# Runs that differ in what they have to remember: method, and settings beside SHORT.
RUNS: dict[str, tuple[str, list[str]]] = {
    "deat-ema": ("deat", ["ema=0.9"]),
    "deat-swa": ("deat", ["swa_start=0.25", "schedule.name=cosine"]),
    "pgd-at": ("pgd-at", ["ema=0.9", "swa_start=0.5", "augment=crop+cutout"]),
    "trades": ("trades", ["optimizer.name=deat", "optimizer.lr=0.3"]),
    "free": ("free", ["method.replays=3", "ema=0.9"]),
    "awp": ("awp", ["augment=crop+cutmix", "label_smoothing=0.1"]),
    "mart": ("mart", ["optimizer.name=adamw", "optimizer.lr=0.002", "swa_start=0.5"]),
    "n-fgsm": ("n-fgsm", ["eps_warmup=2.5", "optimizer.nesterov=true", "ema=0.9"]),
    "fgsm-rs": ("fgsm-rs", ["attack.bn_mode=train", "threat.norm=L2", "threat.eps=1.0"]),
    "gradalign": ("gradalign", ["schedule.name=piecewise", "schedule.milestones=[2,3]", "augment=crop"]),
    "standard": ("standard", ["val_fraction=0", "optimizer.momentum=0", "ema=0.5"]),
}


def run(
    home: Path,
    name: str = "deat-ema",
    monitor: Monitor | None = None,
    more: Sequence[str] = (),
    arch: str = "resnet8",
    data: Path | None = None,
) -> RunFolder:
    """Train, or continue, one of RUNS under `home`, `more` settings on top; on digits or the image folder `data`."""
    method, settings = RUNS[name]
    config = configure(
        arch=arch,
        method=method,
        dataset="folder-32" if data else "digits",
        recipe="digits",
        overrides=[*SHORT, *settings, *more],
        device=torch.device("cpu"),
        data_dir=data,
    )
    return train(config, Machine(Home(home), torch.device("cpu"), data), monitor=monitor)


def outcome(folder: RunFolder) -> dict[str, Any]:
    """All that a run leaves behind, without times and without how often it was resumed."""
    record = read_record(folder.training, TrainingRecord)
    lines = [EpochMetrics.model_validate_json(line) for line in folder.metrics.read_text().splitlines()]
    return {
        "weights": {path.name: path.read_bytes() for path in sorted(folder.path.glob("*.safetensors"))},
        "metrics": [line.model_dump(exclude={"seconds", "images_per_second"}) for line in lines],
        "best_epoch": record.best_epoch,
        "hashes": record.weights,
        "chosen": (record.chosen, record.validation),
        "flags": record.flags,
    }


class Notes(Monitor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def with_words(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]


# -- the parent's side


class Child:
    """A run in a process of its own."""

    def __init__(self, nursery: subprocess.Popen[str], stderr: Path) -> None:
        assert nursery.stdout is not None
        self._lines, self._stderr = nursery.stdout, stderr
        self.pid = int(self._lines.readline().removeprefix("pid "))
        self.said: list[str] = []
        self.exit_code: int | None = None

    def until(self, word: str, times: int = 1) -> bool:
        """Read on until it has said `word` so many times more; False if it came to its end before."""
        while times and self.exit_code is None:
            said = self._lines.readline().split()
            self.said += said[:1]
            times -= said[0] == word
            if said[0] == "exit":
                self.exit_code = int(said[1])
        return self.exit_code is None

    def send(self, number: signal.Signals) -> None:
        """A signal, which may come too late."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, the negative number of the signal that killed it."""
        self.until("exit")
        assert self.exit_code is not None
        return self.exit_code

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()


class Nursery:
    """Starts children, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._last: Child | None = None

    def start(self, home: Path, name: str = "deat-ema", more: Sequence[str] = (), **settings: Any) -> Child:
        """`settings`: those of `_grow_up`."""
        assert self._process.stdin is not None
        self.clear()
        home.mkdir(parents=True, exist_ok=True)
        order = {"home": str(home), "name": name, "more": more, **settings}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._last = Child(self._process, home / "stderr.txt")
        return self._last

    def clear(self) -> None:
        """Nobody is left over from a test that failed."""
        if self._last is not None and self._last.exit_code is None:
            self._last.send(signal.SIGKILL)
            self._last.wait()


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A process that has imported all that a run needs and waits for orders."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = (
        f"import sys; sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]; import small_runs; small_runs.serve()"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        children = Nursery(process)
        try:
            yield children
        finally:
            children.clear()
            process.kill()


# -- the child's side


def serve() -> None:
    """Fork a child for every line on stdin, and say how it ended."""
    for slow in ("sklearn.datasets", "torch._dynamo"):  # what a run would import
        importlib.import_module(slow)
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(_grow_up(**order))
            finally:  # never back into this loop
                traceback.print_exc()
                os._exit(70)
        _announce(f"exit {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _grow_up(
    home: str,
    name: str,
    more: list[str],
    save_every: float = 300.0,
    threads: int = 1,
    arch: str = "resnet8",
    data: str | None = None,
) -> int:
    """Run to the end; the command line's exit codes, errors as one line on stderr."""
    _announce(f"pid {os.getpid()}")
    sys.stderr = (Path(home) / "stderr.txt").open("w")
    torch.set_num_threads(threads)
    engine_train.SAVE_EVERY_SECONDS = save_every  # type: ignore[misc]
    _announce("start")
    _before(engine_step.Step, "_perturb", "attack")
    _before(engine_train, "measure_epoch", "measure")
    _before(os, "fsync", "write")
    try:
        run(Path(home), name, _Telling(), more, arch, Path(data) if data else None)
    except DeatbenchError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0


class _Telling(Monitor):
    def note(self, text: str) -> None:
        print("note:", text, file=sys.stderr, flush=True)

    def advance(self, amount: float, status: str = "") -> None:
        if amount:
            _announce("batch")


def _before(owner: Any, function: str, word: str) -> None:
    """Say `word` whenever the function is called."""
    original: Callable[..., Any] = getattr(owner, function)

    def told(*arguments: Any, **keywords: Any) -> Any:
        _announce(word)
        return original(*arguments, **keywords)

    setattr(owner, function, told)


def _announce(word: str) -> None:
    os.write(1, f"{word}\n".encode())
