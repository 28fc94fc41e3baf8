"""The training loop: epochs of a method's steps, each epoch measured on validation images and saved.

Killed at any instant, a run continues from its newest state and ends with bit-identical weights (CPU, same number of
threads): the order of images and every random number are functions of (seed, position), the rest is in TrainState.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.pgd import PGD
from deatbench.config import RunConfig
from deatbench.data import Dataset, Images
from deatbench.engine.checkpoint import save_state, save_weights
from deatbench.engine.evaluate import Settings, evaluate
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.schedule import learning_rate
from deatbench.engine.search import Search
from deatbench.engine.seeding import epoch_order
from deatbench.engine.state import TOTALS, TrainState
from deatbench.engine.step import Step
from deatbench.errors import DeatbenchError, InterruptedRun
from deatbench.methods import Method
from deatbench.methods.base import Inner
from deatbench.records import EpochMetrics, ModelSpec
from deatbench.store import RunFolder, atomic_write_text

SAVE_EVERY_SECONDS = 300.0
VALIDATION_BATCH = 1000
LARGE_MODEL = 16 << 20  # bytes; the state of a larger one takes long to write
LARGE_MODEL_SECONDS = 30.0  # so it is saved after an epoch only if so much time would be lost


@dataclass(frozen=True)
class Plan:
    """What `fit` needs besides the state: all of it fixed for the whole run."""

    config: RunConfig
    method: Method
    inner: Inner
    data: Dataset
    spec: ModelSpec
    augment: Callable[[Tensor, torch.Generator], Tensor]
    device: torch.device
    peak_lr: float

    @property
    def batches_per_epoch(self) -> int:
        """Full batches only, so that batch norm never sees a batch of one; at least one batch."""
        return max(1, len(self.data.train) // self.config.batch_size)


def fit(state: TrainState, plan: Plan, folder: RunFolder, stop: Interruption, monitor: Monitor) -> None:
    """Train until the last epoch; `folder` then holds best and last weights and metrics.jsonl.

    Raises InterruptedRun when `stop` is set (the state is saved), DeatbenchError when the loss is NaN or infinite.
    """
    epochs = plan.config.epochs
    monitor.start("train", epochs * plan.batches_per_epoch)
    monitor.advance(state.epoch * plan.batches_per_epoch + state.batch)
    step, saves = Step(plan, state, monitor), _Saves(folder, state)
    while state.epoch < epochs:
        _train_epoch(state, plan, step, saves, stop, monitor)
        _close_epoch(state, plan, saves)
        monitor.advance(0, f"{describe(state.history[-1], epochs)}{_load(state, plan)}")
    monitor.finish(describe(state.history[-1], epochs))


def describe(metrics: EpochMetrics, epochs: int) -> str:
    """An epoch in one line."""
    validation = ""
    if metrics.val_clean_acc is not None and metrics.val_robust_acc is not None:
        validation = f"  val clean {metrics.val_clean_acc:.1%} robust {metrics.val_robust_acc:.1%}"
    return f"epoch {metrics.epoch}/{epochs}  loss {metrics.loss:.3f}{validation}  {metrics.images_per_second:.0f} img/s"


def _load(state: TrainState, plan: Plan) -> str:
    """The work of the last epoch per second, and the most memory that the device has held."""
    work = state.history[-1].images_per_second * plan.method.passes(plan.inner)
    peak = f"  peak {torch.cuda.max_memory_allocated(plan.device) / 1e9:.1f} GB" if plan.device.type == "cuda" else ""
    return f"  {work:,.0f} forwards/s{peak}"


def _train_epoch(
    state: TrainState, plan: Plan, step: Step, saves: _Saves, stop: Interruption, monitor: Monitor
) -> None:
    size, count = plan.config.batch_size, plan.batches_per_epoch
    order = epoch_order(len(plan.data.train), plan.config.seed, state.epoch)
    order = order.pin_memory() if plan.device.type == "cuda" else order  # so that copying indices waits for nothing
    index_batches = list(order.split(size))[state.batch : count]
    before, started = state.epoch_seconds, time.perf_counter()
    for x_NCHW, y_N in plan.data.train.batches(index_batches, plan.device):
        t = state.epoch + (state.batch + 1) / count
        lr = learning_rate(plan.config.schedule, plan.peak_lr, t, plan.config.epochs)
        step(x_NCHW, y_N, state.epoch * count + state.batch, lr)
        state.batch += 1
        if state.batch == count and plan.device.type == "cuda":
            torch.cuda.synchronize(plan.device)  # the epoch's time is the device's
        now = time.perf_counter()
        state.epoch_seconds = before + now - started
        monitor.advance(1)
        if stop or saves.age > SAVE_EVERY_SECONDS:
            saves.save(state, state.epoch * count + state.batch)
        if stop:
            raise InterruptedRun(
                f"{stop.signal}: stopped in epoch {state.epoch + 1}, state saved in {saves.folder.path}",
                "the same command continues",
            )


class _Saves:
    """When a resume state was last written, and whether the next is due."""

    def __init__(self, folder: RunFolder, state: TrainState) -> None:
        self.folder = folder
        self._large = sum(parameter.nbytes for parameter in state.model.parameters()) > LARGE_MODEL
        self._last = time.perf_counter()

    @property
    def age(self) -> float:
        """Seconds of work that a kill would cost now."""
        return time.perf_counter() - self._last

    def save(self, state: TrainState, position: int) -> None:
        save_state(self.folder, position, state.dump())
        self._last = time.perf_counter()

    def save_epoch(self, state: TrainState, plan: Plan) -> None:
        """After every epoch; a large state after short epochs only now and then, and after the last."""
        if not self._large or self.age > LARGE_MODEL_SECONDS or state.epoch == plan.config.epochs:
            self.save(state, state.epoch * plan.batches_per_epoch)


def _close_epoch(state: TrainState, plan: Plan, saves: _Saves) -> None:
    """Measure, remember, save: weights first, the resume state last, so that a kill in between repeats the same."""
    folder = saves.folder
    metrics = _measure(state, plan)
    state.history.append(metrics)
    state.epoch, state.batch, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.totals.zero_()
    if _selection_key(plan.method, metrics) > _selection_key(plan.method, _best_so_far(state)):
        state.best_epoch = metrics.epoch
        save_weights(folder.weights("best"), state.evaluated, plan.spec)
    if state.epoch == plan.config.epochs:
        save_weights(folder.weights("last"), state.evaluated, plan.spec)
    lines = (line.model_dump_json() for line in state.history)
    atomic_write_text(folder.metrics, "\n".join(lines) + "\n")
    saves.save_epoch(state, plan)


def _best_so_far(state: TrainState) -> EpochMetrics | None:
    return next((metrics for metrics in state.history if metrics.epoch == state.best_epoch), None)


def _selection_key(method: Method, metrics: EpochMetrics | None) -> tuple[float, ...]:
    """Best is chosen on validation images: by robust accuracy, for a method that does not seek it by clean accuracy.

    Without a validation split every epoch is better than the one before, so that best is last.
    """
    if metrics is None:
        return (-1.0,)
    if metrics.val_robust_acc is None or metrics.val_clean_acc is None:
        return (float(metrics.epoch),)
    first, second = metrics.val_robust_acc, metrics.val_clean_acc
    return (first, second) if method.adversarial else (second, first)


def _measure(state: TrainState, plan: Plan) -> EpochMetrics:
    sums = dict(zip(TOTALS, state.totals.tolist(), strict=True))
    if not torch.isfinite(state.totals).all():
        raise DeatbenchError(
            f"the loss became NaN or infinite in epoch {state.epoch + 1}", "lower optimizer.lr with --set optimizer.lr="
        )
    n_val = len(plan.data.val)
    subset = plan.data.train.subset(epoch_order(len(plan.data.train), 0, -1)[: max(n_val, 100)])
    subset_clean, subset_robust = _accuracies(state.evaluated, subset, plan)
    val_clean, val_robust = _accuracies(state.evaluated, plan.data.val, plan) if n_val else (None, None)
    return EpochMetrics(
        epoch=state.epoch + 1,
        lr=learning_rate(plan.config.schedule, plan.peak_lr, state.epoch + 1, plan.config.epochs),
        loss=sums["loss"] / sums["images"],
        train_clean_acc=sums["clean_correct"] / sums["clean_seen"] if sums["clean_seen"] else None,
        train_robust_acc=sums["robust_correct"] / sums["robust_seen"] if sums["robust_seen"] else None,
        subset_clean_acc=subset_clean,
        subset_robust_acc=subset_robust,
        val_clean_acc=val_clean,
        val_robust_acc=val_robust,
        seconds=round(state.epoch_seconds, 3),
        images_per_second=round(sums["images"] / max(state.epoch_seconds, 1e-9), 1),
    )


def _accuracies(model: nn.Module, images: Images, plan: Plan) -> tuple[float, float]:
    """Clean and PGD accuracy in eval mode, with the training attack's steps from a random start.

    The attack computes in the run's precision, the verdicts are float32.
    """
    attack = PGD(steps=plan.inner.steps, rel_step=plan.inner.rel_step)
    search = Search("bf16" if plan.config.precision == "bf16" else "fp32")
    settings = Settings(seed=plan.config.seed, batch_size=VALIDATION_BATCH, search=search)
    done = evaluate(model, images, plan.inner.threat, [attack], settings, device=plan.device)
    return float(done.clean_N.mean()), float(done.robust[attack.name].mean())
