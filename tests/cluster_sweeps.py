"""A sweep of a few short runs, done by commands in processes of their own that can be killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cli_runs import environment

NAME = "seeds"
PATIENCE_SECONDS = 120.0
TIMES = ("seconds",)  # what two runs of the same configuration differ in
SWEEP = """\
about: the same training from a few seeds
base:
  {{recipe: digits, dataset: digits, arch: resnet8, method: deat, set: {{
    epochs: {epochs}, batch_size: 128, attack.steps: 2, arch.width: 0.125,
    evaluation.attacks: [pgd-2], evaluation.last_attacks: [fgsm], evaluation.n: 60}}}}
axes: {{seed: {seeds}}}
"""


def write_sweep(folder: Path, runs: int, epochs: int) -> Path:
    """A sweep file of so many runs."""
    path = folder / f"{NAME}.yaml"
    path.write_text(SWEEP.format(epochs=epochs, seeds=list(range(runs))))
    return path


@contextmanager
def driver(sweep: Path, home: Path, *more: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`deatbench sweep` at work, one thread a run; killed when the block is left."""
    command = [sys.executable, "-m", "deatbench", "sweep", str(sweep), "--home", str(home), "--threads", "1", *more]
    with (home.parent / f"{home.name}.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=home.parent, env=environment(**variables), stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for a driver's end; its exit code."""
    process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode


def log_of(home: Path) -> str:
    """What all drivers of this home have said on stderr."""
    return (home.parent / f"{home.name}.log").read_text()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first true value, as long as the driver is alive to bring it about."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        assert process.poll() is None, "the driver has ended"
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def at_work(home: Path, after: str = "epoch") -> dict[str, int]:
    """Runs that have got so far, with the processes that do them."""
    found = {}
    for path in sorted((home / "sweeps" / NAME / "running").glob("*.json")):
        with suppress(OSError, json.JSONDecodeError):
            told = json.loads(path.read_text())
            if after in told["progress"] and alive(told["pid"]):
                found[path.stem] = told["pid"]
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry in its parent's books."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def parent_of(pid: int) -> int:
    """The process that started another; 0 if it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal, which may come too late."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def outcome(home: Path) -> dict[str, Any]:
    """All that has come out of a sweep, times left out."""
    lines = (home / "sweeps" / NAME / "results.jsonl").read_text().splitlines()
    weights = {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((home / "runs").glob("*/*.safetensors"))
    }
    return {"results": [_without_times(json.loads(line)) for line in lines], "weights": weights}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return value
