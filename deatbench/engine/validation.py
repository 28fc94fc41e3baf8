"""What an epoch has led to: accuracy on images that no update has seen, and which weights are best by it."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from deatbench.attacks.fgsm import FGSM
from deatbench.attacks.pgd import PGD
from deatbench.data import Images
from deatbench.engine.evaluate import Settings, evaluate
from deatbench.engine.plan import Plan
from deatbench.engine.schedule import learning_rate
from deatbench.engine.search import Search
from deatbench.engine.seeding import epoch_order
from deatbench.engine.state import TOTALS, TrainState
from deatbench.methods import Method
from deatbench.records import Accuracies, Checkpoint, EpochMetrics

BATCH = {"cuda": 1000}
SMALL_BATCH = 128  # on a CPU: a backward pass waits for no signal, and 1000 images take ten seconds in a ResNet-18


def measure_epoch(state: TrainState, plan: Plan) -> EpochMetrics:
    """The epoch that is done: its sums, and accuracies on validation images and as many training images.

    FGSM beside PGD tells robust networks from those that only confuse single-step attacks.
    """
    sums = dict(zip(TOTALS, state.totals.tolist(), strict=True))
    n_val = len(plan.data.val)
    subset = plan.data.train.subset(epoch_order(len(plan.data.train), 0, -1)[: max(n_val, 100)])
    on_subset = _accuracies(state.model, subset, plan)
    on_val = _accuracies(state.model, plan.data.val, plan) if n_val else None
    return EpochMetrics(
        epoch=state.epoch + 1,
        lr=state.lr_factor * learning_rate(plan.config.schedule, plan.peak_lr, state.epoch + 1, plan.config.epochs),
        loss=sums["loss"] / sums["images"],
        train_clean_acc=sums["clean_correct"] / sums["clean_seen"] if sums["clean_seen"] else None,
        train_robust_acc=sums["robust_correct"] / sums["robust_seen"] if sums["robust_seen"] else None,
        subset_clean_acc=on_subset["clean"],
        subset_robust_acc=on_subset["pgd"],
        val_clean_acc=on_val["clean"] if on_val else None,
        val_robust_acc=on_val["pgd"] if on_val else None,
        seconds=round(state.epoch_seconds, 3),
        images_per_second=round(sums["images"] / max(state.epoch_seconds, 1e-9), 1),
        val_fgsm_acc=(on_val or on_subset)["fgsm"] if plan.method.adversarial else None,
    )


def selection_key(method: Method, metrics: EpochMetrics | None) -> tuple[float, ...]:
    """Best is chosen on validation images: by robust accuracy, for a method that does not seek it by clean accuracy.

    Without a validation split every epoch is better than the one before, so that best is last.
    """
    if metrics is None:
        return (-1.0,)
    if metrics.val_robust_acc is None or metrics.val_clean_acc is None:
        return (float(metrics.epoch),)
    return _preference(method, metrics.val_clean_acc, metrics.val_robust_acc)


def chosen(method: Method, validation: dict[Checkpoint, Accuracies]) -> Checkpoint:
    """The weights to publish, by the same rule; best if there was no validation split, or no average is better."""
    candidates: list[Checkpoint] = [name for name in ("best", "ema", "swa") if name in validation]

    def preference(name: Checkpoint) -> tuple[float, ...]:
        return _preference(method, validation[name].clean_acc, validation[name].robust_acc)

    return max(candidates, key=preference, default="best")


def measure_module(module: nn.Module, plan: Plan) -> Accuracies | None:
    """What other weights than an epoch's reach on validation images; None without such."""
    if not len(plan.data.val):
        return None
    found = _accuracies(module, plan.data.val, plan)
    return Accuracies(clean_acc=found["clean"], robust_acc=found["pgd"])


def refresh_statistics(module: nn.Module, plan: Plan) -> None:
    """Batch norm's statistics under weights that no step was taken at, by one pass over the training images.

    So did Izmailov et al. 2018. Images as they are, not augmented: as the network will see them.
    """
    order = epoch_order(len(plan.data.train), plan.config.seed, 0).split(plan.config.batch_size)
    with torch.no_grad():
        update_bn((x_NCHW for x_NCHW, _ in plan.data.train.batches(list(order), plan.device)), module)


def _preference(method: Method, clean_acc: float, robust_acc: float) -> tuple[float, float]:
    return (robust_acc, clean_acc) if method.adversarial else (clean_acc, robust_acc)


def _accuracies(model: nn.Module, images: Images, plan: Plan) -> dict[str, float]:
    """Clean, FGSM and PGD accuracy in eval mode; PGD with the training attack's steps from a random start.

    The attacks compute in the run's precision, the verdicts are float32.
    """
    pgd, fgsm = PGD(steps=plan.inner.steps, rel_step=plan.inner.rel_step), FGSM()
    attacks = [pgd, fgsm] if plan.method.adversarial else [pgd]
    search = Search("bf16" if plan.config.precision == "bf16" else "fp32")
    settings = Settings(seed=plan.config.seed, batch_size=BATCH.get(plan.device.type, SMALL_BATCH), search=search)
    done = evaluate(model, images, plan.inner.threat, attacks, settings, device=plan.device)
    found = {"clean": float(done.clean_N.mean()), "pgd": float(done.robust[pgd.name].mean())}
    return found | ({"fgsm": float(done.robust[fgsm.name].mean())} if plan.method.adversarial else {})
