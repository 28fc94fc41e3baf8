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
from deatbench.attacks.rng import BatchRng
from deatbench.config import RunConfig
from deatbench.data import Dataset, Images
from deatbench.engine.checkpoint import save_state, save_weights
from deatbench.engine.evaluate import evaluate
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.schedule import learning_rate
from deatbench.engine.seeding import derive, epoch_order, seed_everything
from deatbench.engine.state import TOTALS, TrainState
from deatbench.errors import DeatbenchError, InterruptedRun
from deatbench.methods import Batch, Losses, Method
from deatbench.methods.base import Inner
from deatbench.records import EpochMetrics, ModelSpec
from deatbench.store import RunFolder, atomic_write_text

SAVE_EVERY_SECONDS = 300.0


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
    while state.epoch < epochs:
        _train_epoch(state, plan, folder, stop, monitor)
        _close_epoch(state, plan, folder)
        monitor.advance(0, describe(state.history[-1], epochs))
    monitor.finish(describe(state.history[-1], epochs))


def describe(metrics: EpochMetrics, epochs: int) -> str:
    """An epoch in one line."""
    validation = ""
    if metrics.val_clean_acc is not None and metrics.val_robust_acc is not None:
        validation = f"  val clean {metrics.val_clean_acc:.1%} robust {metrics.val_robust_acc:.1%}"
    return f"epoch {metrics.epoch}/{epochs}  loss {metrics.loss:.3f}{validation}  {metrics.images_per_second:.0f} img/s"


def _train_epoch(state: TrainState, plan: Plan, folder: RunFolder, stop: Interruption, monitor: Monitor) -> None:
    size, count = plan.config.batch_size, plan.batches_per_epoch
    order = epoch_order(len(plan.data.train), plan.config.seed, state.epoch)
    index_batches = list(order.split(size))[state.batch : count]
    generator = torch.Generator(device=plan.device)
    before, started = state.epoch_seconds, time.perf_counter()
    saved_at = started
    for x_NCHW, y_N in plan.data.train.batches(index_batches, plan.device):
        _step(state, plan, x_NCHW, y_N, generator)
        now = time.perf_counter()
        state.epoch_seconds = before + now - started
        monitor.advance(1)
        if stop or now - saved_at > SAVE_EVERY_SECONDS:
            save_state(folder, state.epoch * count + state.batch, state.dump())
            saved_at = now
        if stop:
            raise InterruptedRun(
                f"{stop.signal}: stopped in epoch {state.epoch + 1}, state saved in {folder.path}",
                "the same command continues",
            )


def _step(state: TrainState, plan: Plan, x_NCHW: Tensor, y_N: Tensor, generator: torch.Generator) -> None:
    config, position = plan.config, state.epoch * plan.batches_per_epoch + state.batch
    seed_everything(config.seed, "step", position)
    generator.manual_seed(derive(config.seed, "batch", position))
    x_NCHW = plan.augment(x_NCHW, generator).contiguous(memory_format=torch.channels_last)
    t = state.epoch + (state.batch + 1) / plan.batches_per_epoch
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config.schedule, plan.peak_lr, t, config.epochs)

    state.model.train()
    with torch.autocast(plan.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        losses = plan.method.step(state.model, Batch(x_NCHW, y_N, BatchRng(generator)), plan.inner)
    state.optimizer.zero_grad(set_to_none=True)
    losses.loss.backward()
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.totals += _counts(losses, y_N)
    state.batch += 1


def _counts(losses: Losses, y_N: Tensor) -> Tensor:
    """One batch's contribution to the epoch's sums, in the order of TOTALS, without a host sync."""
    n = torch.tensor(float(len(y_N)), device=y_N.device)
    zero = torch.zeros_like(n)
    parts = [n, losses.loss.detach() * n]
    for logits_NK in (losses.clean_logits_NK, losses.adv_logits_NK):
        seen = logits_NK is not None
        parts += [(logits_NK.detach().argmax(1) == y_N).sum() if logits_NK is not None else zero, n if seen else zero]
    return torch.stack([part.double() for part in parts])


def _close_epoch(state: TrainState, plan: Plan, folder: RunFolder) -> None:
    """Measure, remember, save: weights first, the resume state last, so that a kill in between repeats the same."""
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
    save_state(folder, state.epoch * plan.batches_per_epoch, state.dump())


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
        lr=state.optimizer.param_groups[0]["lr"],
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
    """Clean and PGD accuracy in eval mode, float32, with the training attack's steps from a random start."""
    attack = PGD(steps=plan.inner.steps, rel_step=plan.inner.rel_step)
    done = evaluate(model, images, plan.inner.threat, [attack], seed=plan.config.seed, device=plan.device)
    return float(done.clean_N.mean()), float(done.robust[attack.name].mean())
