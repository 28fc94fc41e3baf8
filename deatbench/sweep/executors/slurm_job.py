"""The cluster's side of a Slurm job: what submitit starts there."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from deatbench.store import atomic_write_text
from deatbench.sweep.executors.packages import required
from deatbench.sweep.task import STOPPED, Task, attempt


@dataclass(frozen=True)
class Job:
    """What a job does: one attempt, whose outcome it writes to a file of plain text. submitit carries it there.

    Warned that its time is nearly up, it saves and goes back into the queue, and continues when it is run again. Told
    to stop it saves and says nothing: Slurm, or a driver, knows why and what comes next.
    """

    task: Task
    outcome: Path

    def __call__(self) -> None:
        """Do the attempt, in the main thread of a job's process."""
        warning = signal.Signals[f"SIG{required('submitit', 'slurm').JobEnvironment.USR_SIG}"]
        warned = []

        def stop(number: int, frame: FrameType | None) -> None:
            warned.append(number)
            signal.raise_signal(signal.SIGTERM)

        requeue = signal.signal(warning, stop)
        found = attempt(self.task)
        signal.signal(warning, requeue)
        if found.error == STOPPED:
            if warned:
                signal.raise_signal(warning)
            raise SystemExit(128 + signal.SIGTERM)
        atomic_write_text(self.outcome, json.dumps(asdict(found)))

    def checkpoint(self) -> Any:
        """What is to be done when the job comes up again: the same. submitit asks before it puts it back."""
        return required("submitit", "slurm").helpers.DelayedSubmission(self)
