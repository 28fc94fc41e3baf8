"""Tasks of a Ray cluster: the one that RAY_ADDRESS names, the one this machine belongs to, or one of its own."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from deatbench.errors import ConfigError, DeatbenchError
from deatbench.sweep.executors.base import EXECUTORS, Needs
from deatbench.sweep.executors.packages import required
from deatbench.sweep.task import TRACE_LINES, Outcome, Task, attempt

GRACE_SECONDS = 20.0  # for saving
PATIENCE_SECONDS = 10.0  # with a cluster that does not answer
HINT = "RAY_ADDRESS names one; without it one is started here"


@EXECUTORS.register("ray")
class Ray:
    """Ray finds a node with the cores and GPUs that a run needs; with a node that dies, its runs go to others.

    All nodes see the working folder and the data sets under the same paths. Ray itself repeats nothing: what has
    failed is the driver's to count.
    """

    def __init__(self, needs: Needs) -> None:
        self._ray = required("ray", "ray")
        self._jobs, self._room = needs.jobs, room(needs)
        self.threads = needs.threads or needs.cpus
        self._device = "cuda" if self._room["num_gpus"] else "cpu"  # a worker sees no other GPU than its own
        _connect(self._ray)
        if not self._fitting():
            self._ray.shutdown()
            asked = f"{needs.cpus} CPU and {self._room['num_gpus']:g} GPU"
            raise ConfigError(f"no node of the Ray cluster has {asked} for a run", "`ray status` says what there is")
        self.slots = self._jobs or self._fitting()
        self._attempt = self._ray.remote(**self._room, max_retries=0)(attempt)
        self._out: dict[Any, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            self._ray.shutdown()

    def submit(self, task: Task) -> None:
        """Leave the task to Ray."""
        self._out[self._attempt.remote(replace(task, device=self._device, threads=self.threads))] = task.run_id

    def outcomes(self, seconds: float) -> list[Outcome]:
        """Wait up to so long for tasks to end; those that have. Nodes may have come or gone meanwhile."""
        ended, others = self._ray.wait(list(self._out), timeout=seconds)
        if ended and others:
            ended += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        self.slots = self._jobs or max(1, self._fitting())
        return [self._outcome(reference) for reference in ended]

    def _outcome(self, reference: Any) -> Outcome:
        run_id = self._out.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.NodeDiedError:
            return Outcome(run_id, "its node died")
        except self._ray.exceptions.WorkerCrashedError:
            return Outcome(run_id, "its worker process died")
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()[-TRACE_LINES:]
            return Outcome(run_id, f"{type(error).__name__}: {lines[-1] if lines else ''}", "\n".join(lines))
        return outcome

    def _fitting(self) -> int:
        """How many runs the living nodes have room for."""
        return sum(fitting(node["Resources"], self._room) for node in self._ray.nodes() if node["Alive"])

    def _stop(self) -> None:
        """Interrupt what is still being done, as Ctrl-C does; what does not save in time is killed."""
        for reference in self._out:
            self._ray.cancel(reference)
        left = list(self._out)
        if left:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=GRACE_SECONDS)
        for reference in left:
            self._ray.cancel(reference, force=True)


def room(needs: Needs) -> dict[str, float]:
    """What Ray sets aside for a run. Raises ConfigError on a part of a GPU beside whole ones."""
    gpus = 0.0 if needs.device == "cpu" else needs.gpus or 1.0
    if gpus > 1 and gpus % 1:
        raise ConfigError(f"resources.gpus={gpus:g}: Ray gives a part of one GPU, or whole ones")
    return {"num_cpus": needs.cpus, "num_gpus": gpus}


def fitting(node: Mapping[str, float], room: Mapping[str, float]) -> int:
    """How many runs of that `room` fit into a node at once; those that share a GPU share a whole one."""
    found = int(node.get("CPU", 0) // room["num_cpus"])
    gpus = room["num_gpus"]
    if gpus:
        there = int(node.get("GPU", 0))
        found = min(found, there * int(1 / gpus) if gpus < 1 else there // int(gpus))
    return found


def _connect(ray: Any) -> None:
    """Join a cluster, or start one. Raises DeatbenchError if the one that is named does not answer."""
    address = os.environ.get("RAY_ADDRESS", "")
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    settings = {name: value for name, value in os.environ.items() if name.startswith("DEATBENCH_")}
    try:
        with _own_sigterm():
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": settings} if settings else None,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeatbenchError(f"no Ray cluster at {address or 'this machine'}: {reason}", HINT) from error


def _check_reachable(address: str) -> None:
    """Whether anybody listens at host:port: Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), PATIENCE_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise DeatbenchError(f"no Ray cluster at {address}: {error}", HINT) from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: ray puts one of its own, which leaves without a word."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
