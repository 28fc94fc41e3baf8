"""When a run is written down, in which order, and what happens where that fails.

Weights and metrics come first, the resume state last: a kill in between repeats what the state does not know of and
writes the same files again. Where the disk refuses, training goes on: the files wait in memory, the state waits for
them, and both are tried again at the next occasion. Only when a run ends or is left must they be written.
"""

from __future__ import annotations

import time
from pathlib import Path

from deatbench.engine.checkpoint import save_state, weights_file
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.state import TrainState
from deatbench.errors import DeatbenchError, InterruptedRun
from deatbench.store import RunFolder, atomic_write_bytes

LARGE_MODEL = 16 << 20  # bytes; the state of a larger one takes long to write
LARGE_MODEL_SECONDS = 30.0  # so it is saved after an epoch only if so much time would be lost


class Saves:
    """What waits to be written, when a resume state was last written, and whether the next is due."""

    def __init__(self, folder: RunFolder, state: TrainState, plan: Plan, monitor: Monitor) -> None:
        self.folder, self.state, self.plan, self.monitor = folder, state, plan, monitor
        self._large = sum(parameter.nbytes for parameter in state.model.parameters()) > LARGE_MODEL
        self._waiting: dict[Path, bytes] = {}
        self._refused = False
        self._last = time.perf_counter()

    @property
    def age(self) -> float:
        """Seconds of work that a kill would cost now."""
        return time.perf_counter() - self._last

    def best(self) -> None:
        """The best weights so far are those of now."""
        self._waiting[self.folder.weights("best")] = weights_file(self.state.model, self.plan.spec)

    def epoch(self) -> None:
        """After every epoch; a large state after short epochs only now and then; the last must be written."""
        lines = (metrics.model_dump_json() for metrics in self.state.history)
        self._waiting[self.folder.metrics] = ("\n".join(lines) + "\n").encode()
        if self.state.epoch == self.plan.config.epochs:
            self.must()
        else:
            self.attempt(with_state=not self._large or self.age > LARGE_MODEL_SECONDS)

    def must(self) -> None:
        """Write what waits, then the state, unless there is nothing finite to save. Raises DeatbenchError."""
        self._write_files()
        if self.state.finite:
            save_state(self.folder, self._step, self.state.dump())
        self._last = time.perf_counter()

    def attempt(self, with_state: bool = True) -> None:
        """As `must`, but a run does not end because its disk is full for a while: the state before is whole."""
        try:
            if with_state:
                self.must()
            else:
                self._write_files()
        except DeatbenchError as error:
            self._last = time.perf_counter()
            if not self._refused:
                self.monitor.note(f"{error.message}; training goes on from memory and tries again")
            self._refused = True
            return
        if self._refused:
            self._refused = False
            self.monitor.note(f"saved again in {self.folder.path}")

    def leave(self, stop: Interruption) -> None:
        """Raises InterruptedRun, the state being safe; DeatbenchError if it cannot be saved."""
        self.must()
        epoch = min(self.state.epoch + 1, self.plan.config.epochs)
        saved = "state saved" if self.state.finite else "no longer finite; the state before is kept"
        message = f"{stop.signal}: stopped in epoch {epoch}, {saved} in {self.folder.path}"
        raise InterruptedRun(message, "the same command continues")

    @property
    def _step(self) -> int:
        return self.plan.position(self.state)

    def _write_files(self) -> None:
        for path in list(self._waiting):
            atomic_write_bytes(path, self._waiting[path])
            del self._waiting[path]
