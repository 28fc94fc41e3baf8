"""Sweeps on a Ray cluster of two nodes, on this machine: workers, a driver and a whole node are killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import call, environment
from cluster_sweeps import at_work, driver, finish, kill, log_of, outcome, parent_of, wait_for, write_sweep

from deatbench.errors import ConfigError
from deatbench.sweep.executors import EXECUTORS, Needs
from deatbench.sweep.executors.ray import fitting, room
from deatbench.sweep.task import Task

RUNS, EPOCHS = 4, 12
STORE_BYTES = 80 * 2**20


def test_a_missing_package_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = call(capsys, "sweep", write_sweep(tmp_path, 1, 1), "--executor", "ray", "--home", tmp_path)
    assert (done.code, done.out) == (4, "")
    assert done.err.count("\n") == 1
    assert "pip install 'deatbench[ray]'" in done.err


def test_a_cluster_that_does_not_answer_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{nobody.getsockname()[1]}")
    done = call(capsys, "sweep", write_sweep(tmp_path, 1, 1), "--executor", "ray", "--home", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert "no Ray cluster at 127.0.0.1" in done.err


def test_nothing_is_imported_that_was_not_chosen() -> None:
    program = (
        "import sys; from deatbench.sweep import EXECUTORS; print(EXECUTORS.names());"
        "assert not {'ray', 'submitit', 'torch'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['local', 'ray', 'slurm']\n", "")


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "found"),
    [
        *((1, 0.0, "cpu", 8), (3, 0.0, "cpu", 2), (9, 0.0, "cpu", 0), (1, 1.0, "cpu", 8)),
        *((1, 0.0, "cuda", 2), (1, 1.0, "cuda", 2), (1, 2.0, "cuda", 1), (4, 0.25, "cuda", 2)),
        *((1, 0.25, "cuda", 8), (1, 0.3, "cuda", 6)),
    ],
)
def test_how_many_runs_fit_into_a_node_of_8_cores_and_2_gpus(cpus: int, gpus: float, device: str, found: int) -> None:
    needs = Needs(Path(), cpus=cpus, gpus=gpus, device=device)
    assert fitting({"CPU": 8.0, "GPU": 2.0, "memory": 1e9}, room(needs)) == found


def test_one_and_a_half_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"resources.gpus=1.5"):
        room(Needs(Path(), device="cuda", gpus=1.5))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A node with one core and a second one with two, and with a GPU that only Ray believes in."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(RAY_USAGE_STATS_ENABLED="0").items():  # nodes hand theirs on to workers
            patch.setenv(name, value)
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            started.add_node(num_cpus=2, num_gpus=1, object_store_memory=STORE_BYTES)
            yield started
        finally:
            started.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes out of the sweep when processes of this machine do it undisturbed."""
    home = tmp_path_factory.mktemp("local") / "home"
    with driver(write_sweep(home.parent, RUNS, EPOCHS), home, "--jobs", "1") as process:
        assert finish(process) == 0, log_of(home)
    return outcome(home)


@pytest.mark.slow
def test_parts_of_a_gpu(cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    task = Task("a-run", {}, "deatbench run", tmp_path, None, tmp_path / "progress.json")
    with pytest.raises(ConfigError, match="no node of the Ray cluster has 1 CPU and 2 GPU"):
        EXECUTORS["ray"](Needs(tmp_path, device="cuda", gpus=2))
    with EXECUTORS["ray"](Needs(tmp_path, device="cuda", gpus=0.5)) as executor:
        assert (executor.slots, executor.threads) == (2, 1)
        executor.submit(task)
        (ended,) = executor.outcomes(60)
    assert ended.run_id == "a-run"
    assert ended.error  # an empty configuration, or no such GPU: a failed attempt, not the end


@pytest.mark.slow
def test_a_driver_that_is_killed(cluster: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    sweep, home = write_sweep(tmp_path, RUNS, EPOCHS), tmp_path / "home"
    with driver(sweep, home, "--executor", "ray", RAY_ADDRESS=cluster.address) as process:
        wait_for(lambda: at_work(home), process)
        process.send_signal(signal.SIGKILL)
    with driver(sweep, home, "--executor", "ray", RAY_ADDRESS=cluster.address) as process:
        assert finish(process) == 0, log_of(home)
    assert outcome(home) == expected


@pytest.mark.slow
def test_a_worker_and_a_node_that_are_killed(cluster: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    sweep, home = write_sweep(tmp_path, RUNS, EPOCHS), tmp_path / "home"
    (node,) = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid

    def there() -> list[int]:
        return [pid for pid in at_work(home).values() if parent_of(pid) == raylet]

    with driver(sweep, home, "--executor", "ray", RAY_ADDRESS=cluster.address) as process:
        kill(wait_for(lambda: [pid for pid in at_work(home).values() if parent_of(pid) != raylet], process)[0])
        wait_for(there, process)
        cluster.remove_node(node, allow_graceful=False)
        assert finish(process) == 0, log_of(home)
    assert "its worker process died; to be tried again" in log_of(home)
    assert "its node died; to be tried again" in log_of(home)
    assert outcome(home) == expected
