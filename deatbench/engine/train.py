"""The training loop: epochs of a method's steps, each epoch measured on validation images and saved.

Killed at any instant, a run continues from its newest state and ends with bit-identical weights (CPU, same number of
threads): the order of images and every random number are functions of (seed, position), the rest is in TrainState.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable

import torch

from deatbench.engine.checkpoint import save_weights, weights_sha256
from deatbench.engine.contract import NonFiniteLogits
from deatbench.engine.further import further_weights
from deatbench.engine.guard import MOST_ROLLBACKS, failure, not_finite
from deatbench.engine.interruption import Interruption, Stopped
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.saving import Saves
from deatbench.engine.schedule import learning_rate
from deatbench.engine.seeding import epoch_order
from deatbench.engine.state import TrainState
from deatbench.engine.step import Step
from deatbench.engine.validation import measure_epoch, selection_key
from deatbench.errors import DeatbenchError, DivergedError
from deatbench.records import EpochMetrics, Flag
from deatbench.store import RunFolder

SAVE_EVERY_SECONDS = 300.0
AGREE_EVERY = 8  # batches on CUDA, where talking to the other processes costs more than it does beside a CPU's batch


def fit(
    state: TrainState,
    plan: Plan,
    folder: RunFolder,
    stop: Interruption,
    monitor: Monitor,
    after_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> None:
    """Train until the last epoch; `folder` then holds best and last weights, those of averages, and metrics.jsonl.

    Raises InterruptedRun when `stop` is set (the state is saved), DivergedError when training has failed and the
    configuration's guard says to stop, or nothing else is left to do, DeatbenchError when the end cannot be written.
    """
    epochs = plan.config.epochs
    monitor.start("train", epochs * plan.batches_per_epoch)
    monitor.advance(plan.position(state))
    _check_alike(state, plan)
    step, saves = Step(plan, state, monitor, stop=stop), Saves(folder, state, plan, monitor)
    if plan.config.guard == "rollback" and state.sound is None:
        state.mark_sound()
    while state.epoch < epochs:
        wrong, metrics = _run_epoch(state, plan, step, saves, stop, monitor)
        if wrong is not None and plan.config.guard == "rollback":
            _take_back(state, plan, wrong, monitor)
            step = Step(plan, state, monitor, stop=stop)  # the old one holds the optimizer's old tensors
            continue
        if wrong is not None and (metrics is None or plan.config.guard == "stop"):
            raise DivergedError(wrong.message, "lower optimizer.lr, or --set guard=rollback")
        if wrong is not None:
            state.flag_once(wrong)
            monitor.note(wrong.message)
        assert metrics is not None  # what is not measured is wrong
        after_epoch(metrics)  # before the state is written: after a kill in between it is told again, not never
        _close_epoch(state, plan, metrics, saves)
        monitor.advance(0, f"{describe(metrics, epochs)}{_load(state, plan)}")
    try:
        plan.processes.first(stop.at_once()(lambda: _save_last(state, plan, folder)))
    except Stopped:
        _leave(state, plan, saves, stop)
    monitor.finish(describe(state.history[-1], epochs))


def _run_epoch(
    state: TrainState, plan: Plan, step: Step, saves: Saves, stop: Interruption, monitor: Monitor
) -> tuple[Flag | None, EpochMetrics | None]:
    """Train and measure: (what is wrong, the metrics). Raises InterruptedRun on a signal, the state being safe."""
    try:
        _train_epoch(state, plan, step, saves, stop, monitor)
        _put_together(state, plan)
        _check_alike(state, plan)
        found = plan.processes.first(stop.at_once()(lambda: _measure(state, plan)))
    except Stopped:
        _leave(state, plan, saves, stop)
    return found


def describe(metrics: EpochMetrics, epochs: int) -> str:
    """An epoch in one line."""
    validation = ""
    if metrics.val_clean_acc is not None and metrics.val_robust_acc is not None:
        validation = f"  val clean {metrics.val_clean_acc:.1%} robust {metrics.val_robust_acc:.1%}"
    return f"epoch {metrics.epoch}/{epochs}  loss {metrics.loss:.3f}{validation}  {metrics.images_per_second:.0f} img/s"


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held: on the device, on the CPU at all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: torch.device) -> None:
    """Leave out of `peak_bytes` what runs before this one held on the device, in the same process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _load(state: TrainState, plan: Plan) -> str:
    """The work of the last epoch per second, and the most memory that was held."""
    work = state.history[-1].images_per_second * plan.method.passes(plan.inner) / plan.method.replays
    return f"  {work:,.0f} forwards/s  peak {state.peak_bytes / 1e9:.1f} GB"


def _train_epoch(state: TrainState, plan: Plan, step: Step, saves: Saves, stop: Interruption, monitor: Monitor) -> None:
    size, count = plan.config.batch_size, plan.batches_per_epoch
    order = epoch_order(len(plan.data.train), plan.config.seed, state.epoch)
    order = order.pin_memory() if plan.device.type == "cuda" else order  # so that copying indices waits for nothing
    index_batches = list(order.split(size))[state.batch : count]
    before, started = state.epoch_seconds, time.perf_counter()
    for x_NCHW, y_N in plan.data.train.batches(index_batches, plan.device):
        t = state.epoch + (state.batch + 1) / count
        lr = state.lr_factor * learning_rate(plan.config.schedule, plan.peak_lr, t, plan.config.epochs)
        step(x_NCHW, y_N, plan.position(state), lr)
        state.batch += 1
        if state.batch == count and plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)  # the epoch's time is the device's
        now = time.perf_counter()
        state.epoch_seconds = before + now - started
        monitor.advance(1)
        asked, due = _agreed(state, plan, saves, stop)
        if asked:
            _leave(state, plan, saves, stop)
        if due:
            _put_together(state, plan)
            plan.processes.first(saves.attempt)


def _check_alike(state: TrainState, plan: Plan) -> None:
    """Raises DeatbenchError unless all processes hold the same bits; other versions on another machine might not."""
    if plan.processes.world == 1:
        return
    mine = weights_sha256(state.model)
    if any(plan.processes.most(mine != plan.processes.first(lambda: mine))):
        where = f"before epoch {state.epoch + 1}, batch {state.batch + 1}"
        raise DeatbenchError(f"the processes hold different weights {where}", "run the same versions everywhere")


def _agreed(state: TrainState, plan: Plan, saves: Saves, stop: Interruption) -> tuple[bool, bool]:
    """Whether to stop, which a signal to any process asks of all, and whether to save, by the first one's clock."""
    team = plan.processes
    if team.world > 1 and plan.device.type == "cuda" and state.batch % AGREE_EVERY:
        return False, False
    number = signal.Signals[stop.signal].value if stop.signal else 0
    number, due = team.most(number, team.rank == 0 and saves.age > SAVE_EVERY_SECONDS)
    if number:
        stop.signal = signal.Signals(number).name
    return bool(number), bool(due)


def _put_together(state: TrainState, plan: Plan) -> None:
    """What each process knows in part (sums, the method's memory) becomes whole, so that the first can save it."""
    plan.processes.collect(state.totals)
    for tensor in state.memory.values():
        plan.processes.complete(tensor)


def _leave(state: TrainState, plan: Plan, saves: Saves, stop: Interruption) -> None:
    _put_together(state, plan)
    plan.processes.first(lambda: saves.leave(stop))


def _measure(state: TrainState, plan: Plan) -> tuple[Flag | None, EpochMetrics | None]:
    """(what is wrong, the epoch's metrics); what is not finite leaves nothing to measure."""
    if not state.finite:
        return not_finite(state.epoch + 1), None
    try:
        metrics = measure_epoch(state, plan)
    except NonFiniteLogits:
        return not_finite(state.epoch + 1), None
    last = metrics.epoch == plan.config.epochs
    return failure(metrics, state.history, plan.spec.num_classes, last), metrics


def _take_back(state: TrainState, plan: Plan, wrong: Flag, monitor: Monitor) -> None:
    """Back to the last epoch in order, at half the learning rate; not for ever."""
    if sum(flag.code == wrong.code for flag in state.flags) >= MOST_ROLLBACKS:
        raise DivergedError(f"{wrong.message}, after {MOST_ROLLBACKS} rollbacks", "lower optimizer.lr")
    assert state.sound is not None
    before = plan.position(state)
    again = f"continued from epoch {state.sound['epoch']} with half the learning rate"
    state.take_back(Flag(code=wrong.code, message=f"{wrong.message}; {again}"))
    monitor.note(state.flags[-1].message)
    monitor.advance(plan.position(state) - before)


def _close_epoch(state: TrainState, plan: Plan, metrics: EpochMetrics, saves: Saves) -> None:
    """Remember and save."""
    state.history.append(metrics)
    state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.totals.zero_()
    state.peak_bytes = max(state.peak_bytes, peak_bytes(plan.device))
    if selection_key(plan.method, metrics) > selection_key(plan.method, _best_so_far(state)):
        state.best_epoch = metrics.epoch
        if plan.processes.rank == 0:
            saves.best()
    start = plan.config.swa_start
    if state.swa is not None and start is not None and state.epoch > start * plan.config.epochs:
        state.swa.update_parameters(state.model)
    if plan.config.guard == "rollback":
        state.mark_sound()
    plan.processes.first(saves.epoch)


def _save_last(state: TrainState, plan: Plan, folder: RunFolder) -> None:
    """The weights of the end, which all follow from the state: a run that was stopped here makes them again."""
    save_weights(folder.weights("last"), state.model, plan.spec)
    for name, module in further_weights(state, plan).items():
        save_weights(folder.weights(name), module, plan.spec)


def _best_so_far(state: TrainState) -> EpochMetrics | None:
    return next((metrics for metrics in state.history if metrics.epoch == state.best_epoch), None)
