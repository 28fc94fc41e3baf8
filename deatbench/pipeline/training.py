"""One training run: from a configuration to a folder with weights, metrics and a record."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from deatbench.archs.build import build_arch, count_flops, count_params
from deatbench.config import RunConfig, dump_config
from deatbench.data import Dataset, load_dataset
from deatbench.data.augment import augment
from deatbench.engine.checkpoint import load_state
from deatbench.engine.distributed import Processes, share_equally
from deatbench.engine.environment import environment, hardware_name
from deatbench.engine.execution import Execution
from deatbench.engine.further import further_weights
from deatbench.engine.interruption import Interruption, Stopped, interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.seeding import seed_everything
from deatbench.engine.state import TrainState
from deatbench.engine.train import fit, forget_peak
from deatbench.engine.validation import chosen, measure_module
from deatbench.errors import InterruptedRun
from deatbench.methods import METHODS
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.pipeline.machine import Machine, now
from deatbench.records import (
    Accuracies,
    Checkpoint,
    EpochMetrics,
    Flag,
    Throughput,
    TrainingRecord,
)
from deatbench.store import RunFolder, atomic_write_text, sha256_of, write_record
from deatbench.threats import make_threat
from deatbench.trackers import Trackers


def train(
    config: RunConfig,
    machine: Machine,
    *,
    fresh: bool = False,
    monitor: Monitor | None = None,
    trackers: Trackers | None = None,
    processes: Processes | None = None,
) -> RunFolder:
    """Train, or continue, the run of `config`; a finished one is returned as it is unless `fresh`.

    All of `processes` call this together; the first of them alone reads and writes the folder. Raises ConfigError if
    somebody else works on the same run, InterruptedRun after saving on a signal.
    """
    monitor = monitor or Monitor()
    trackers, team = trackers or Trackers({}, monitor.note), processes or Processes()
    folder = machine.home.run(config.run_id)
    if team.first(lambda: folder.finished and not fresh):
        monitor.note(f"{folder.path.name} is already trained (--fresh trains it again)")
        return folder
    data = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction)
    # all that can be wrong is, before anything is written
    Execution.from_environment()
    plan, state = prepare(config, data, machine.device, team)
    with ExitStack() as held, interruption() as stop:
        team.first(lambda: held.enter_context(folder.locked()))
        saved = team.first(lambda: _begin(config, folder, fresh, machine, team, monitor))
        if saved is not None:
            _continue(state, saved, folder, team, monitor)
            del saved  # as large as the state, and on its device
        if team.rank == 0:
            trackers.start(config.run_id, config.model_dump(mode="json"), folder.path)
        try:
            forget_peak(plan.device)
            fit(state, plan, folder, stop, monitor, trackers.epoch if team.rank == 0 else lambda metrics: None)
        finally:
            trackers.finish()
        team.first(lambda: _record(config, plan, state, folder, machine, stop))
    return folder


def _record(
    config: RunConfig, plan: Plan, state: TrainState, folder: RunFolder, machine: Machine, stop: Interruption
) -> None:
    try:
        with stop.at_once():  # averages are measured: minutes on a CPU
            record = _training_record(config, plan, state, folder, machine)
    except Stopped:
        message = f"{stop.signal}: stopped after the last epoch, state saved in {folder.path}"
        raise InterruptedRun(message, "the same command continues") from None
    write_record(folder.training, record)


def _begin(
    config: RunConfig, folder: RunFolder, fresh: bool, machine: Machine, team: Processes, monitor: Monitor
) -> dict[str, Any] | None:
    """Make the folder ready; what an earlier try has left in it, on the CPU if it is to be handed on."""
    if fresh:
        _clear(folder)
    atomic_write_text(folder.config, dump_config(config))
    return load_state(folder, machine.device if team.world == 1 else torch.device("cpu"), monitor)


def _continue(state: TrainState, saved: dict[str, Any], folder: RunFolder, team: Processes, monitor: Monitor) -> None:
    """Take up what an earlier try has left, and say under which other surroundings it was made."""
    device = state.totals.device
    state.restore(saved | {"memory": {name: tensor.to(device) for name, tensor in saved["memory"].items()}})
    if team.rank:
        state.totals.zero_()  # the sums so far are the first process's
    monitor.note(f"continuing {folder.path.name} after epoch {state.epoch} (--fresh starts over)")
    if len(state.made_with) > 1:
        message = f"made in parts under {', then '.join(state.made_with)}: not bit for bit the run of one of them"
        state.flags = [flag for flag in state.flags if flag.code != "resumed_elsewhere"]
        state.flags.append(Flag(code="resumed_elsewhere", message=message))
        monitor.note(message)


def _clear(folder: RunFolder) -> None:
    folder.training.unlink(missing_ok=True)
    for path in (*folder.checkpoints(), folder.metrics, *folder.evaluations.glob("*.json")):
        path.unlink(missing_ok=True)


def prepare(
    config: RunConfig, data: Dataset, device: torch.device, processes: Processes | None = None
) -> tuple[Plan, TrainState]:
    """The plan of a run and its state before the first step.

    Raises ConfigError where arch and images do not fit, or the processes cannot share batches equally.
    """
    team = processes or Processes()
    share_equally(min(config.batch_size, len(data.train)), team.world)
    spec = data.model_spec(config.arch.name, config.arch.params)
    seed_everything(config.seed, "init")
    model = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[config.optimizer.name](model.parameters(), **config.optimizer.params)
    threat = make_threat(config.threat.norm, config.threat.eps)
    attack = config.attack
    plan = Plan(
        config=config,
        method=METHODS[config.method.name](**config.method.params),
        inner=Inner(threat, attack.steps, attack.rel_step, attack.random_start, attack.bn_mode),
        data=data,
        spec=spec,
        augment=augment(data.augment if config.augment == "auto" else config.augment),
        device=device,
        peak_lr=optimizer.param_groups[0]["lr"] * (config.batch_size / config.lr_batch if config.lr_batch else 1.0),
        processes=team,
    )
    return plan, TrainState.fresh(model, optimizer, config.ema, swa=config.swa_start is not None)


def _training_record(
    config: RunConfig, plan: Plan, state: TrainState, folder: RunFolder, machine: Machine
) -> TrainingRecord:
    last = state.history[-1]
    best = next(metrics for metrics in state.history if metrics.epoch == state.best_epoch)
    spec = plan.spec
    further = further_weights(state, plan)
    validation = _validation(plan, further, best, last)
    checkpoints: list[Checkpoint] = ["best", "last", *further]
    return TrainingRecord(
        id=config.run_id,
        created=now(),
        config=config.model_dump(mode="json"),
        digest=config.digest,
        model=spec,
        n_params=count_params(state.model),
        flops=count_flops(state.model, (1, spec.in_channels, spec.image_size, spec.image_size)),
        dataset=plan.data.name,
        dataset_source=plan.data.source,
        n_train=len(plan.data.train),
        n_val=len(plan.data.val),
        best_epoch=state.best_epoch,
        final=last,
        best=best,
        seconds=round(sum(metrics.seconds for metrics in state.history), 2),
        hardware=hardware_name(plan.device, plan.processes.world),
        resumed=state.resumed,
        weights={checkpoint: sha256_of(folder.weights(checkpoint)) for checkpoint in checkpoints},
        chosen=chosen(plan.method, validation),
        validation=validation,
        throughput=_throughput(plan, state),
        flags=tuple(state.flags),
        env=environment(plan.device, plan.processes.world),
        command=machine.command,
    )


def _validation(
    plan: Plan, further: dict[Checkpoint, nn.Module], best: EpochMetrics, last: EpochMetrics
) -> dict[Checkpoint, Accuracies]:
    """What each kept set of weights reaches on validation images; nothing without such."""
    if best.val_clean_acc is None:
        return {}
    found: dict[Checkpoint, Accuracies | None] = {}
    epochs: tuple[tuple[Checkpoint, EpochMetrics], ...] = (("best", best), ("last", last))
    for checkpoint, metrics in epochs:
        clean_acc, robust_acc = metrics.probed_acc
        found[checkpoint] = Accuracies(clean_acc=clean_acc, robust_acc=robust_acc)
    found |= {name: measure_module(module, plan) for name, module in further.items()}
    return {name: accuracies for name, accuracies in found.items() if accuracies is not None}


def _throughput(plan: Plan, state: TrainState) -> Throughput:
    seconds = max(sum(metrics.seconds for metrics in state.history), 1e-9)
    images = sum(metrics.images_per_second * metrics.seconds for metrics in state.history)
    return Throughput(
        images_per_second=round(images / seconds, 1),
        forwards_per_second=round(images * plan.method.passes(plan.inner) / plan.method.replays / seconds, 1),
        peak_memory_mb=round(state.peak_bytes / 1e6, 1),
    )
