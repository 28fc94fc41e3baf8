"""Stopped in the middle of an epoch and continued, every method ends bit-identical; no part of the state is spare."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from deatbench.archs.build import build_arch
from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.data.augment import augment
from deatbench.engine.checkpoint import load_state
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.state import TrainState
from deatbench.engine.train import Plan, fit
from deatbench.errors import CheckpointError, InterruptedRun
from deatbench.methods import METHODS
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.records import ModelSpec
from deatbench.store import RunFolder
from deatbench.threats import make_threat

EPOCHS, BATCH, IMAGES = 3, 32, 160
CUT = 7  # batches until the stop: in the second of three epochs of five
CPU = torch.device("cpu")


class StopAfter(Monitor):
    """Asks to stop once so many batches are done, as a signal would."""

    def __init__(self, batches: int, stop: Interruption) -> None:
        self.left, self.stop = batches, stop

    def advance(self, amount: float, status: str = "") -> None:
        self.left -= int(amount)
        if self.left <= 0 and amount:
            self.stop.signal = "SIGTERM"


@pytest.fixture(scope="module")
def few_digits(digits: Dataset) -> Dataset:
    return dataclasses.replace(
        digits, train=digits.train.subset(torch.arange(IMAGES)), val=digits.val.subset(torch.arange(40))
    )


def prepare(data: Dataset, method: str, lr: float) -> tuple[Plan, TrainState]:
    """A fresh run: nothing in it knows of another one."""
    config = RunConfig.model_validate(
        {
            "arch": "resnet8",
            "dataset": "digits",
            "method": method,
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "schedule": {"name": "one-cycle"},
        }
    )
    spec = ModelSpec(
        arch="resnet8", params={"width": 0.25}, num_classes=10, in_channels=1, image_size=8, mean=(0.3,), std=(0.38,)
    )
    torch.manual_seed(0)
    model = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    model = model.to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[METHODS[method].optimizer](model.parameters(), lr=lr)
    plan = Plan(
        config=config,
        method=METHODS[method](**METHODS.bind(method, {})),
        inner=Inner(make_threat("Linf", "0.1"), 2, 0.5, True, "eval"),
        data=data,
        spec=spec,
        augment=augment("crop"),
        device=CPU,
        peak_lr=lr,
    )
    return plan, TrainState.fresh(model, optimizer, ema=0.9)


def run(data: Dataset, method: str, folder: Path, saved: dict[str, Any] | None = None, lr: float = 0.1) -> TrainState:
    """To the end, from the start or from a saved state."""
    folder.mkdir(parents=True, exist_ok=True)
    plan, state = prepare(data, method, lr)
    if saved is not None:
        state.restore(saved)
    fit(state, plan, RunFolder(folder), Interruption(), Monitor())
    return state


def stop_in_the_middle(data: Dataset, method: str, folder: Path, lr: float = 0.1) -> dict[str, Any]:
    """The state that a stop in the second epoch leaves on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    plan, state = prepare(data, method, lr)
    stop = Interruption()
    with pytest.raises(InterruptedRun, match="SIGTERM"):
        fit(state, plan, RunFolder(folder), stop, StopAfter(CUT, stop))
    saved = load_state(RunFolder(folder), CPU, Monitor())
    assert saved is not None
    assert (saved["epoch"], saved["batch"]) == (1, 2)
    return saved


def outcome(state: TrainState, folder: Path) -> dict[str, Any]:
    """All that a run leaves behind, without times."""
    history = [metrics.model_dump(exclude={"seconds", "images_per_second"}) for metrics in state.history]
    weights = {name: (folder / f"{name}.safetensors").read_bytes() for name in ("best", "last")}
    last = {key: value.tolist() for key, value in state.model.state_dict().items()}
    return {"history": history, "best_epoch": state.best_epoch, "last": last, **weights}


@pytest.mark.parametrize("method", METHODS.names())
def test_resuming_changes_no_bit(method: str, few_digits: Dataset, tmp_path: Path) -> None:
    whole = run(few_digits, method, tmp_path / "whole")
    saved = stop_in_the_middle(few_digits, method, tmp_path / "cut")
    resumed = run(few_digits, method, tmp_path / "cut", saved)
    assert outcome(resumed, tmp_path / "cut") == outcome(whole, tmp_path / "whole")
    assert (whole.resumed, resumed.resumed) == (0, 1)


# Each part of the state, and a run in which forgetting it shows. At learning rate 0 no epoch beats the first.
PARTS = dict.fromkeys(("model", "optimizer", "averages", "epoch", "batch", "totals", "history"), 0.1) | {"best_epoch": 0.0}
BOOKKEEPING = {"epoch_seconds": 1000.0, "resumed": 5}


@pytest.fixture(scope="module")
def stopped(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[dict[str, Any], Path]]:
    folders = {lr: tmp_path_factory.mktemp("stopped") for lr in set(PARTS.values())}
    return {lr: (stop_in_the_middle(few_digits, "deat", folder, lr), folder) for lr, folder in folders.items()}


def test_every_part_of_the_state_is_listed_here(few_digits: Dataset) -> None:
    assert prepare(few_digits, "deat", 0.1)[1].dump().keys() == PARTS.keys() | BOOKKEEPING.keys() | {"layout"}


@pytest.mark.parametrize("part", PARTS)
def test_forgetting_any_part_shows(
    part: str, few_digits: Dataset, stopped: dict[float, tuple[dict[str, Any], Path]], tmp_path: Path
) -> None:
    lr = PARTS[part]
    saved, folder = stopped[lr]
    whole = outcome(run(few_digits, "deat", copy_of(folder, tmp_path / "a"), deep(saved), lr), tmp_path / "a")
    forgotten = deep(saved) | {part: deep(prepare(few_digits, "deat", lr)[1].dump()[part])}
    if part == "history":
        forgotten["best_epoch"] = -1  # it points into the history
    maimed = outcome(run(few_digits, "deat", copy_of(folder, tmp_path / "b"), forgotten, lr), tmp_path / "b")
    assert maimed != whole


@pytest.mark.parametrize("part", BOOKKEEPING)
def test_bookkeeping_is_carried_on(
    part: str, few_digits: Dataset, stopped: dict[float, tuple[dict[str, Any], Path]], tmp_path: Path
) -> None:
    saved, folder = stopped[0.1]
    state = run(few_digits, "deat", copy_of(folder, tmp_path / "a"), deep(saved) | {part: BOOKKEEPING[part]})
    assert {"epoch_seconds": state.history[1].seconds >= 1000, "resumed": state.resumed == 6}[part]


def test_a_state_of_another_layout_is_refused(
    few_digits: Dataset, stopped: dict[float, tuple[dict[str, Any], Path]]
) -> None:
    saved, _ = stopped[0.1]
    with pytest.raises(CheckpointError, match="another version"):
        prepare(few_digits, "deat", 0.1)[1].restore(deep(saved) | {"layout": 0})


def test_the_running_sums_have_been_saved(stopped: dict[float, tuple[dict[str, Any], Path]]) -> None:
    saved, _ = stopped[0.1]
    assert saved["totals"][0] == 2 * BATCH


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
