"""Jobs of a Slurm cluster, handed in by submitit as arrays. They outlive this process; the next one finds them.

DEATBENCH_SLURM says how jobs are submitted: `partition=gpu account=me time=240`, time in minutes. `cluster=local` there
means processes of this machine, as submitit starts them: to try a sweep before it is taken to a cluster. What sbatch
reads from its own variables (SBATCH_RESERVATION and others) it reads.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deatbench.errors import ConfigError, DeatbenchError, MissingError, UnknownNameError
from deatbench.store import atomic_write_text, parse_json
from deatbench.sweep.executors.base import EXECUTORS, Needs
from deatbench.sweep.executors.packages import required
from deatbench.sweep.executors.slurm_job import Job
from deatbench.sweep.task import TRACE_LINES, Outcome, Task

VARIABLE = "DEATBENCH_SLURM"
SETTINGS = (
    *("account", "cluster", "comment", "constraint", "exclude", "gres", "mem", "nodelist", "partition", "qos"),
    *("setup", "signal_delay_s", "time"),
)
NUMBERS = ("signal_delay_s", "time")
DEFAULT_MINUTES = 240  # after which a job that is not done goes back into the queue
MANY = 1000  # times that it may; also jobs in one array, by Slurm's own default
GRACE_SECONDS = 20.0  # for saving
LATE_SECONDS = 5.0  # that a shared file system may need to show what a job has written


@EXECUTORS.register("slurm")
class Slurm:
    """An array of jobs, at most `slots` of them in the queue; their ids are kept in the sweep's folder.

    Nothing that a job has pickled is read: a sweep's folder may come from somebody else.
    """

    def __init__(self, needs: Needs) -> None:
        self._submitit = required("submitit", "slurm")
        self._settings = settings_of(os.environ.get(VARIABLE, ""))
        self._local = self._settings.pop("cluster", "slurm") == "local"
        self._folder = needs.folder.absolute() / "slurm"
        self._room = _room(needs)
        self._device = needs.device.partition(":")[0]  # a job sees no other GPU than its own
        self.slots = needs.jobs or MANY
        self.threads = needs.threads or needs.cpus
        self._name = f"deatbench-{needs.folder.name}"
        self._unsent: list[Task] = []
        self._jobs: dict[str, Any] = {}  # by run
        self._since: dict[str, float] = {}  # when a job was first seen to be over

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._queue = self._connected()
        self._found = _read(self._ids)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self._jobs.values():
            self._stop(job)
        deadline = time.monotonic() + GRACE_SECONDS
        while not all(map(self._over, self._jobs.values())) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._jobs = {}
        if kind is None:  # nothing is left to be found
            self._found = {}
        self._write()

    def submit(self, task: Task) -> None:
        """Keep the task for the next array, unless a job of an earlier driver is at it or has been."""
        if task.run_id in self._found:
            kind = self._submitit.LocalJob if self._local else self._submitit.SlurmJob
            self._jobs[task.run_id] = kind(self._folder, self._found[task.run_id])
        else:
            self._unsent.append(replace(task, device=self._device, threads=self.threads))

    def outcomes(self, seconds: float) -> list[Outcome]:
        """Submit what has come together, wait up to so long for jobs to end; those that have."""
        self._send()
        ended = self._ended()
        if not ended:
            time.sleep(seconds)
            ended = self._ended()
        found = [self._outcome(run_id) for run_id in ended]
        if found:
            self._write()
        return found

    @property
    def _ids(self) -> Path:
        return self._folder / "jobs.json"

    def _told(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

    def _connected(self) -> Any:
        """submitit's executor. Raises MissingError where there is no Slurm, ConfigError on settings it refuses."""
        cluster = "local" if self._local else "slurm"
        more = {f"{cluster}_max_num_timeout": MANY}
        try:
            queue = self._submitit.AutoExecutor(self._folder, cluster=cluster, **more)
        except RuntimeError as error:
            raise MissingError(
                "--executor slurm: no srun on this machine", f"{VARIABLE}=cluster=local tries it without Slurm"
            ) from error
        minutes = self._settings.pop("time", DEFAULT_MINUTES)
        given = {f"slurm_{name}": value for name, value in self._settings.items()}
        try:
            queue.update_parameters(
                name=self._name, timeout_min=minutes, slurm_array_parallelism=self.slots, **self._room, **given
            )
        except (AssertionError, NameError, TypeError, ValueError) as error:
            raise ConfigError(f"{VARIABLE}: {str(error).splitlines()[0]}") from error
        return queue

    def _send(self) -> None:
        """One array of all that is unsent. Raises DeatbenchError if it is not taken."""
        if not self._unsent:
            return
        for task in self._unsent:
            self._told(task.run_id).unlink(missing_ok=True)
        try:
            with self._queue.batch():
                jobs = [self._queue.submit(Job(task, self._told(task.run_id))) for task in self._unsent]
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise DeatbenchError(f"sbatch: {reason[0]}", f"{VARIABLE} holds its settings") from error
        self._jobs |= {task.run_id: job for task, job in zip(self._unsent, jobs, strict=True)}
        self._unsent = []
        self._write()

    def _ended(self) -> list[str]:
        """Runs whose jobs are over and have told how it went, or have had the time to."""
        now = time.monotonic()
        for run_id, job in self._jobs.items():
            if run_id not in self._since and self._over(job):
                self._since[run_id] = now
        return [
            run_id
            for run_id, since in self._since.items()
            if self._told(run_id).is_file() or now - since > LATE_SECONDS
        ]

    def _over(self, job: Any) -> bool:
        """Whether a job is neither waiting nor running. One that has died in Slurm is noticed after some minutes."""
        if self._local and job.job_id in self._found.values():
            return not _alive(int(job.job_id))  # submitit knows its own children only
        return bool(job.done())

    def _stop(self, job: Any) -> None:
        if not self._local:
            job.cancel(check=False)
        elif _alive(int(job.job_id)):
            os.kill(int(job.job_id), signal.SIGTERM)  # submitit's own way leaves it a second for saving

    def _outcome(self, run_id: str) -> Outcome:
        job = self._jobs.pop(run_id)
        self._since.pop(run_id)
        self._found.pop(run_id, None)
        told = self._told(run_id)
        if not told.is_file():
            return Outcome(run_id, f"its job {job.job_id} died, see {job.paths.stderr}", _end_of(job.paths.stderr))
        found = _outcome_of(told, run_id)
        told.unlink()
        if found.error is None:
            for path in (job.paths.submitted_pickle, job.paths.result_pickle, job.paths.stdout, job.paths.stderr):
                path.unlink(missing_ok=True)
        return found

    def _write(self) -> None:
        """For a driver that comes after this one."""
        found = self._found | {run_id: job.job_id for run_id, job in self._jobs.items()}
        atomic_write_text(self._ids, json.dumps(found, indent=0, sort_keys=True) + "\n")


def settings_of(text: str) -> dict[str, Any]:
    """What DEATBENCH_SLURM says. Raises ConfigError naming the word that says nothing."""
    found: dict[str, Any] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE}={text!r}: {error}") from error
    for word in words:
        name, equals, value = word.partition("=")
        if name not in SETTINGS:
            raise UnknownNameError(f"setting in {VARIABLE}", name, SETTINGS, f"known: {', '.join(SETTINGS)}")
        if not equals or not value or (name in NUMBERS and not value.isdecimal()):
            kind = "a whole number" if name in NUMBERS else "a value"
            raise ConfigError(f"{VARIABLE}: {word!r} needs {kind}", "time=240 is minutes" if name == "time" else "")
        found[name] = int(value) if name in NUMBERS else [value] if name == "setup" else value
    if found.get("cluster", "slurm") not in ("slurm", "local"):
        raise ConfigError(f"{VARIABLE}: cluster={found['cluster']} is neither slurm nor local")
    return found


def _room(needs: Needs) -> dict[str, int]:
    """What a job asks for. Raises ConfigError on parts of a GPU."""
    gpus = 0.0 if needs.device == "cpu" else needs.gpus or 1.0
    if gpus % 1:
        raise ConfigError(f"resources.gpus={gpus:g}: Slurm gives whole GPUs", "`gpus: 1`; Ray shares them")
    return {"cpus_per_task": needs.cpus} | ({"gpus_per_node": int(gpus)} if gpus else {})


def _read(path: Path) -> dict[str, str]:
    """Job ids by run, as an earlier driver left them. Raises ConfigError on anything else."""
    if not path.is_file():
        return {}
    found = parse_json(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(found, dict) or not all(
        isinstance(job, str) and job.replace("_", "").isdecimal() for job in found.values()
    ):
        raise ConfigError(f"{path} holds no job ids", "delete it: jobs that still run are then waited for, run by run")
    return found


def _outcome_of(path: Path, run_id: str) -> Outcome:
    try:
        told = parse_json(path.read_text(encoding="utf-8"), str(path))
        error, trace, lasting = told["error"], told["trace"], told.get("lasting", False)
    except (OSError, ConfigError, TypeError, KeyError) as unreadable:
        return Outcome(run_id, f"{path} tells no outcome: {unreadable}")
    return Outcome(run_id, None if error is None else str(error), str(trace), bool(lasting))


def _end_of(log: Path) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TRACE_LINES:])
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    """Whether it is still the process that submitit has started."""
    try:
        return b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
