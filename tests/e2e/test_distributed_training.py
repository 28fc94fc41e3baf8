"""Two processes that share every batch train the network that one process trains, up to rounding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import environment
from safetensors.torch import load_file
from torch import Tensor, nn

from deatbench.cli.main import main
from deatbench.data import Dataset
from deatbench.engine.distributed import Processes, processes
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.state import TrainState
from deatbench.errors import ConfigError, InterruptedRun
from deatbench.pipeline import Machine, configure, prepare, train
from deatbench.records import EpochMetrics, TrainingRecord
from deatbench.store import Home, RunFolder, read_record

CPU = torch.device("cpu")
COMMON = ["epochs=1", "batch_size=256", "attack.steps=2", "arch.width=0.125", "optimizer.lr=0.05", "threat.eps=0.1"]
MIXED = ["label_smoothing=0.1", "augment=crop-flip+cutmix"]
TIMES = {"loss", "seconds", "images_per_second"}
CASES: dict[str, tuple[str, list[str]]] = {
    "pgd-at": ("pgd-at", ["ema=0.9", "epochs=2"]),
    "trades": ("trades", ["swa_start=0.4", "threat.norm=L2", "threat.eps=0.5"]),
    "awp": ("awp", ["method.gamma=0.05"]),
    "mart": ("mart", MIXED),
    "free": ("free", ["method.replays=2"]),
    "gradalign": ("gradalign", []),
    "n-fgsm": ("n-fgsm", ["attack.bn_mode=train"]),
}
CUT = 3  # batches of an epoch of five


class Stopping(Monitor):
    """Sends SIGTERM to its own process after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def advance(self, amount: float, status: str = "") -> None:
        self.left -= int(amount)
        if amount and self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def trained(home: Path, case: str, team: Processes | None = None, monitor: Monitor | None = None) -> RunFolder:
    """The run of a case; the network computes in float64, where rounding seldom turns the sign of a gradient."""

    def in_float64(*args: Any) -> tuple[Plan, TrainState]:
        plan, state = prepare(*args)
        for network in (state.model, *state.averages.values()):
            network.double()
        return plan, state

    method, overrides = CASES[case]
    config = configure(
        arch="resnet8", method=method, dataset="digits", recipe="digits", overrides=COMMON + overrides, device=CPU
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEATBENCH_STEP", "fold=off")
        patch.setattr("deatbench.pipeline.training.prepare", in_float64)
        return train(config, Machine(Home(home), CPU), processes=team, monitor=monitor)


# -- what two processes do, started once for all that can be seen in one go

CHILD = """
    import sys
    import torch
    torch.set_num_threads(1)
    sys.path[:0] = [{tests!r}, {here!r}]
    from pathlib import Path
    from test_distributed_training import share

    share(Path({home!r}))
"""


def share(home: Path) -> None:
    with processes(CPU) as team:
        torch.save(normalised(team), home / f"norm-{team.rank}.pt")
        for case in CASES:
            trained(home / case, case, team)
        stopped(home / "stopped", team, signalled=1)
        trained(home / "continued", "free", team)


def stopped(home: Path, team: Processes, signalled: int) -> None:
    """A run of a method with a memory that is cut in its epoch, by a signal to one process."""
    with pytest.raises(InterruptedRun, match="SIGTERM: stopped in epoch 1, state saved"):
        trained(home, "free", team, Stopping(CUT) if team.rank == signalled else None)
    (path,) = RunFolder(next((home / "runs").iterdir())).checkpoints()
    assert path.name.startswith(f"checkpoint-{CUT:08}")


def started(count: int, *command: str | Path) -> list[subprocess.Popen[str]]:
    """Python processes as torchrun starts them, but without its own seconds and its report on their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(RANK=str(rank), **common), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def ended(team: list[subprocess.Popen[str]]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, stdout, stderr of each."""
    try:
        said = [child.communicate(timeout=200) for child in team]
    finally:
        for child in team:
            child.kill()
            child.wait()
    return [child.returncode for child in team], [out for out, _ in said], [err for _, err in said]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done all the cases."""
    home = tmp_path_factory.mktemp("by_two")
    stopped(home / "continued", Processes(), signalled=0)
    here = Path(__file__).parent
    values = {"tests": str(here.parent), "here": str(here), "home": str(home)}
    codes, _, errors = ended(started(2, "-c", textwrap.dedent(CHILD).format(**values)))
    assert codes == [0, 0], errors
    return home


def history(folder: RunFolder) -> list[EpochMetrics]:
    return [EpochMetrics.model_validate_json(line) for line in folder.metrics.read_text().splitlines()]


def assert_same_run(folder: RunFolder, other: RunFolder) -> None:
    assert len(history(folder)) == len(history(other))
    for mine, theirs in zip(history(folder), history(other), strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-8)  # gradalign compares gradients in float32
        assert mine.model_dump(exclude=TIMES) == theirs.model_dump(exclude=TIMES)
    weights, others = (sorted(run.path.glob("*.safetensors")) for run in (folder, other))
    assert [path.name for path in weights] == [path.name for path in others]
    for path, other_path in zip(weights, others, strict=True):
        close({f"{path.name} {name}": tensor for name, tensor in load_file(path).items()}, load_file(other_path))


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """In float64 to more digits than float32 has."""
    for (name, ours), theirs in zip(found.items(), expected.values(), strict=True):
        scale = max(float(theirs.abs().max()), 1e-3)
        assert float((ours - theirs).abs().max()) <= 1e-9 * scale, name


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(case: str, by_two: Path, tmp_path: Path) -> None:
    alone = trained(tmp_path, case)
    (together,) = (RunFolder(path) for path in (by_two / case / "runs").iterdir())
    assert together.path.name == alone.path.name
    assert_same_run(together, alone)
    ours, theirs = (read_record(folder.training, TrainingRecord) for folder in (together, alone))
    assert ours.hardware == f"2 × {theirs.hardware}" == ours.env.hardware
    assert (ours.digest, ours.flags) == (theirs.digest, theirs.flags)


def test_a_signal_to_one_stops_all_and_any_number_continues(by_two: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path, "free")
    for name in ("stopped", "continued"):  # by two and continued by one, and the other way round
        continued = trained(by_two / name, "free")
        assert_same_run(continued, whole)
        record = read_record(continued.training, TrainingRecord)
        assert (record.resumed, [flag.code for flag in record.flags]) == (1, ["resumed_elsewhere"])
        assert "in each of 2 processes" in record.flags[0].message


# -- batch norm

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "2d": (nn.BatchNorm2d(3), (6, 3, 4, 5)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (6, 3, 4, 5)),
    "1d": (nn.BatchNorm1d(4, affine=False), (8, 4)),
    "untracked": (nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 2)),
}


def normalised(team: Processes) -> dict[str, Tensor]:
    """This process's rows of outputs and first and second derivatives, and what the layers remember."""
    found: dict[str, Tensor] = {}
    for name, (layer, shape) in LAYERS.items():
        layer.double().load_state_dict({key: torch.full_like(value, 2) for key, value in layer.state_dict().items()})
        generator = torch.Generator().manual_seed(len(name))
        x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        rows = team.rows(len(x))
        x = (1000 + x)[rows].requires_grad_(True)  # far from 0: a mean of squares would be lost in rounding
        with team.shared_batch_norm():
            for _ in range(2):
                y = layer.train()(x)
        (dx,) = torch.autograd.grad((y * weight[rows]).square().sum(), x, create_graph=True)
        (ddx,) = torch.autograd.grad(dx.square().sum(), x)
        with team.shared_batch_norm():
            still = layer.eval()(x) if layer.track_running_stats else y
        tensors = {"y": y, "dx": dx, "ddx": ddx, "eval": still} | layer.state_dict()
        found |= {f"{name} {key}": tensor.detach().clone() for key, tensor in tensors.items()}
    return found


def test_batch_norm_is_that_of_the_whole_batch(by_two: Path) -> None:
    halves = [torch.load(by_two / f"norm-{rank}.pt", weights_only=True) for rank in range(2)]
    remembered = {name for name in halves[0] if name.split()[1] not in ("y", "dx", "ddx", "eval")}
    assert all(torch.equal(halves[0][name], halves[1][name]) for name in remembered)
    found = {
        name: half if name in remembered else torch.cat((half, halves[1][name])) for name, half in halves[0].items()
    }
    close(found, normalised(Processes()))


# -- what cannot be shared, and the command line


class Three(Processes):
    world = 3


def test_batches_must_have_equal_parts(digits: Dataset) -> None:
    config = configure(
        arch="resnet8", method="standard", dataset="digits", recipe="digits", overrides=COMMON, device=CPU
    )
    with pytest.raises(ConfigError, match="3 processes cannot share batches of 256 images equally"):
        prepare(config, digits, CPU, Three())


TRAIN = (
    *("--arch", "resnet8", "--method", "pgd-at", "--dataset", "digits", "--threads", "1", "--set", "arch.width=0.125"),
    *("--set", "attack.steps=2", "--set", "evaluation.attacks=[pgd-2]", "--set", "evaluation.last_attacks=[fgsm]"),
)


@pytest.mark.slow
def test_a_fault_of_all_is_said_once(tmp_path: Path) -> None:
    codes, out, err = ended(
        started(2, "-m", "deatbench", "--home", tmp_path, "train", *TRAIN, "--set", "batch_size=127")
    )
    assert codes == [2, 2]
    assert "".join(out) == ""
    assert "".join(err).count("cannot share batches of 127 images equally") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_sigterm_to_one_process(signalled: int, tmp_path: Path) -> None:
    arguments = ("--home", tmp_path, "train", *TRAIN, "--epochs", "30")
    team = started(2, "-m", "deatbench", *arguments)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("runs/*/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    team[signalled].send_signal(signal.SIGTERM)
    codes, _, err = ended(team)
    assert codes == [130, 130], err
    assert "".join(err).count("SIGTERM: stopped in epoch") == 1
    done = subprocess.run(
        [sys.executable, "-m", "deatbench", *map(str, arguments), "--json"],
        env=environment(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "continuing" in done.stderr
    assert json.loads(done.stdout)[0]["final"]["epoch"] == 30


@pytest.mark.slow
def test_run_under_torchrun(tmp_path: Path) -> None:
    """Training and evaluation in one command, in float32; one process speaks."""
    arguments = (*TRAIN, "--epochs", "1", "--set", "evaluation.n=60", "--json")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "deatbench", "--home", str(tmp_path / "two"), "run", *arguments],
        env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pages:") == 1
    alone = main(["--home", str(tmp_path / "one"), "run", *arguments])
    assert alone == 0
    losses = []
    for home in (tmp_path / "two", tmp_path / "one"):
        (path,) = Home(home).runs.glob("*/training.json")
        losses.append(read_record(path, TrainingRecord).final.loss)
        assert len(list((home / "model_zoo").rglob("card.json"))) == 1
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert [record["threat"]["norm"] for record in json.loads(done.stdout)] == ["Linf", "Linf"]


@pytest.mark.slow
def test_a_lost_process_ends_the_others(tmp_path: Path) -> None:
    team = started(2, "-m", "deatbench", "--home", tmp_path, "train", *TRAIN, "--epochs", "30")
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("runs/*/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    team[1].kill()
    codes, _, err = ended(team)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of torchrun was lost (the same command continues)" in err[0]
