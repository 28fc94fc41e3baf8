"""Stopped in the middle of an epoch and continued, every method ends bit-identical; no part of the state is spare."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from deatbench.archs.build import build_arch
from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.data.augment import augment
from deatbench.engine.checkpoint import load_state
from deatbench.engine.guard import failure
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.state import TrainState, surroundings
from deatbench.engine.train import fit
from deatbench.errors import CheckpointError, InterruptedRun
from deatbench.methods import METHODS
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.records import EpochMetrics, Flag, ModelSpec
from deatbench.store import RunFolder
from deatbench.threats import make_threat

BATCH, BATCHES, EPOCHS = 32, 3, 2
CUT = 4  # batches until the stop: one into the second epoch
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scenario:
    """A short run on few digits; its `settings` are those of RunConfig."""

    method: str = "deat"
    params: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = ""  # the method's own
    lr: float = 0.1
    settings: Mapping[str, Any] = field(default_factory=lambda: {"ema": 0.9, "swa_start": 0.0})
    cut: int = CUT


PLAIN = Scenario()
FREE = Scenario("free", {"replays": 2}, lr=0.05)
STANDING = Scenario(lr=0.0)  # no epoch beats the first
# At these rates its epochs count as failed: taken back once before the stop, once after it.
TAKEN_BACK = Scenario(
    "pgd-at",
    lr=0.16,
    settings={"guard": "rollback", "schedule": {"name": "constant"}},
    cut=2 * BATCHES + 1,
)
FAILS = {(1, 0.16), (2, 0.08)}  # (epoch, lr)


@pytest.fixture(scope="module", autouse=True)
def _a_guard_that_trips() -> Iterator[None]:
    """What real failures look like is told in test_guard.py; here they must come at the right moment."""

    def trips(metrics: EpochMetrics, *others: Any) -> Flag | None:
        if (metrics.epoch, metrics.lr) in FAILS:
            return Flag(code="collapse", message=f"collapsed in epoch {metrics.epoch}")
        return failure(metrics, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deatbench.engine.train.failure", trips)
        yield


class StopAfter(Monitor):
    """Asks to stop once so many batches are done, as a signal would."""

    def __init__(self, batches: int, stop: Interruption) -> None:
        self.left, self.stop = batches, stop

    def advance(self, amount: float, status: str = "") -> None:
        self.left -= amount > 0
        if self.left <= 0 and amount:
            self.stop.signal = "SIGTERM"


@pytest.fixture(scope="module")
def few_digits(digits: Dataset) -> Dataset:
    return dataclasses.replace(
        digits, train=digits.train.subset(torch.arange(BATCH * BATCHES)), val=digits.val.subset(torch.arange(40))
    )


def prepare(data: Dataset, scenario: Scenario) -> tuple[Plan, TrainState]:
    """A fresh run: nothing in it knows of another one."""
    method = scenario.method
    settings = {
        "arch": "resnet8",
        "dataset": "digits",
        "method": method,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "schedule": {"name": "one-cycle"},
    }
    config = RunConfig.model_validate(settings | dict(scenario.settings))
    spec = ModelSpec(
        arch="resnet8", params={"width": 0.125}, num_classes=10, in_channels=1, image_size=8, mean=(0.3,), std=(0.38,)
    )
    torch.manual_seed(0)
    model = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    model = model.to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[scenario.optimizer or METHODS[method].optimizer](model.parameters(), lr=scenario.lr)
    plan = Plan(
        config=config,
        method=METHODS[method](**METHODS.bind(method, dict(scenario.params))),
        inner=Inner(make_threat("Linf", "0.1"), 2, 0.5, True, "eval"),
        data=data,
        spec=spec,
        augment=augment("crop"),
        device=CPU,
        peak_lr=scenario.lr,
    )
    return plan, TrainState.fresh(model, optimizer, config.ema, swa=config.swa_start is not None)


def run(data: Dataset, scenario: Scenario, folder: Path, saved: dict[str, Any] | None = None) -> TrainState:
    """To the end, from the start or from a saved state."""
    folder.mkdir(parents=True, exist_ok=True)
    plan, state = prepare(data, scenario)
    if saved is not None:
        state.restore(saved)
    fit(state, plan, RunFolder(folder), Interruption(), Monitor())
    return state


def stop_in_the_middle(data: Dataset, scenario: Scenario, folder: Path) -> dict[str, Any]:
    """The state that a stop in the middle of an epoch leaves on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    plan, state = prepare(data, scenario)
    stop = Interruption()
    with pytest.raises(InterruptedRun, match="SIGTERM"):
        fit(state, plan, RunFolder(folder), stop, StopAfter(scenario.cut, stop))
    saved = load_state(RunFolder(folder), CPU, Monitor())
    assert saved is not None
    assert (saved["epoch"], saved["batch"]) == (1, 1)
    return saved


def outcome(state: TrainState, folder: Path) -> dict[str, Any]:
    """All that a run leaves behind, without times."""
    return {
        "history": [metrics.model_dump(exclude={"seconds", "images_per_second"}) for metrics in state.history],
        "best_epoch": state.best_epoch,
        "flags": state.flags,
        "last": {key: value.tolist() for key, value in state.model.state_dict().items()},
        "files": {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))},
    }


def check_resuming(data: Dataset, scenario: Scenario, folder: Path) -> None:
    whole = run(data, scenario, folder / "whole")
    saved = stop_in_the_middle(data, scenario, folder / "cut")
    resumed = run(data, scenario, folder / "cut", saved)
    assert outcome(resumed, folder / "cut") == outcome(whole, folder / "whole")
    assert {"best.safetensors", "last.safetensors"} <= outcome(whole, folder / "whole")["files"].keys()
    assert (whole.resumed, resumed.resumed) == (0, 1)


@pytest.mark.parametrize("method", METHODS.names())
def test_resuming_changes_no_bit(method: str, few_digits: Dataset, tmp_path: Path) -> None:
    params = {"replays": 2} if method == "free" else {}
    check_resuming(few_digits, Scenario(method, params), tmp_path)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_resuming_under_every_optimizer(optimizer: str, few_digits: Dataset, tmp_path: Path) -> None:
    check_resuming(few_digits, Scenario("trades", optimizer=optimizer, lr=0.01), tmp_path)


def test_resuming_between_two_rollbacks(few_digits: Dataset, tmp_path: Path) -> None:
    check_resuming(few_digits, TAKEN_BACK, tmp_path)
    flags = run(few_digits, TAKEN_BACK, tmp_path / "again").flags
    assert [flag.code for flag in flags] == ["collapse"] * 2


# Each part of the state, and a run in which forgetting it shows.
PARTS = {
    "model": PLAIN,
    "optimizer": PLAIN,
    "averages.ema": PLAIN,
    "averages.swa": PLAIN,
    "memory": FREE,
    "epoch": PLAIN,
    "batch": PLAIN,
    "totals": PLAIN,
    "history": PLAIN,
    "best_epoch": STANDING,
    "lr_factor": TAKEN_BACK,
    "flags": TAKEN_BACK,
    "sound": TAKEN_BACK,
}
BOOKKEEPING = {"epoch_seconds": 1000.0, "resumed": 5, "made_with": ["torch 1.0, 3 threads"], "peak_bytes": 2**50}

Stopped = dict[int, tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def stopped(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """For each scenario above the state that a stop leaves, and its folder."""
    found: Stopped = {}
    for scenario in PARTS.values():
        if id(scenario) not in found:
            folder = tmp_path_factory.mktemp("stopped")
            found[id(scenario)] = stop_in_the_middle(few_digits, scenario, folder), folder
    return found


@pytest.mark.parametrize("scenario", [PLAIN, FREE, TAKEN_BACK], ids=lambda scenario: scenario.method)
def test_every_part_of_the_state_is_listed_here(scenario: Scenario, few_digits: Dataset) -> None:
    _, state = prepare(few_digits, scenario)
    parts = {part.partition(".")[0] for part in PARTS}
    assert state.dump().keys() == parts | BOOKKEEPING.keys() | {"layout"}
    assert {f"averages.{name}" for name in state.averages} <= PARTS.keys()


@pytest.mark.parametrize("part", PARTS)
def test_forgetting_any_part_shows(part: str, few_digits: Dataset, stopped: Stopped, tmp_path: Path) -> None:
    scenario = PARTS[part]
    saved, folder = stopped[id(scenario)]
    whole = outcome(run(few_digits, scenario, copy_of(folder, tmp_path / "a"), deep(saved)), tmp_path / "a")
    forgotten = forget(deep(saved), deep(prepare(few_digits, scenario)[1].dump()), part)
    maimed = outcome(run(few_digits, scenario, copy_of(folder, tmp_path / "b"), forgotten), tmp_path / "b")
    assert maimed != whole


def forget(saved: dict[str, Any], fresh: dict[str, Any], part: str) -> dict[str, Any]:
    """`saved` with one part as it was before the first step."""
    key, _, inner = part.partition(".")
    if inner:
        saved[key][inner] = fresh[key][inner]
    else:
        saved[key] = fresh[key]
    if part == "history":
        saved["best_epoch"] = -1  # it points into the history
    return saved


@pytest.mark.parametrize("part", BOOKKEEPING)
def test_bookkeeping_is_carried_on(part: str, few_digits: Dataset, stopped: Stopped, tmp_path: Path) -> None:
    saved, folder = stopped[id(PLAIN)]
    state = run(few_digits, PLAIN, copy_of(folder, tmp_path / "a"), deep(saved) | {part: BOOKKEEPING[part]})
    carried = {
        "epoch_seconds": state.history[1].seconds >= 1000,
        "resumed": state.resumed == 6,
        "made_with": state.made_with == ["torch 1.0, 3 threads", surroundings()],
        "peak_bytes": state.peak_bytes == 2**50,
    }
    assert carried[part]


def test_the_peak_of_memory_is_measured(few_digits: Dataset, stopped: Stopped, tmp_path: Path) -> None:
    saved, folder = stopped[id(PLAIN)]
    assert run(few_digits, PLAIN, copy_of(folder, tmp_path / "a"), deep(saved) | {"peak_bytes": 0}).peak_bytes > 2**26


def test_a_state_of_another_layout_is_refused(few_digits: Dataset, stopped: Stopped) -> None:
    saved, _ = stopped[id(PLAIN)]
    with pytest.raises(CheckpointError, match="another version"):
        prepare(few_digits, PLAIN)[1].restore(deep(saved) | {"layout": 0})


def test_the_running_sums_have_been_saved(stopped: Stopped) -> None:
    saved, _ = stopped[id(PLAIN)]
    assert saved["totals"][0] == BATCH


def test_what_was_taken_back_has_been_saved(stopped: Stopped) -> None:
    saved, _ = stopped[id(TAKEN_BACK)]
    assert saved["lr_factor"] == 0.5
    assert saved["sound"]["epoch"] == 1
    assert [flag["code"] for flag in saved["flags"]] == ["collapse"]


def deep(value: Any) -> Any:
    """An independent copy, by the way over a file."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
