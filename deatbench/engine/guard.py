"""Training that has gone wrong, seen after an epoch and named: never published without saying so.

Catastrophic overfitting: Wong, Rice, Kolter 2020 (arXiv 2001.03994), section 5.4: single-step attacks fail against a
network that PGD breaks.
"""

from __future__ import annotations

from collections.abc import Sequence

from deatbench.records import EpochMetrics, Flag

MOST_ROLLBACKS = 3
SINGLE_STEP_GAP = 0.1  # FGSM is weaker than PGD by a few points against sound networks
FALL = 0.15  # less is what the first epochs of a sound run, at 10 or 20 %, go up and down by


def not_finite(epoch: int) -> Flag:
    """In epoch `epoch` the loss, or at its end weights or logits, were no finite numbers."""
    return Flag(code="nonfinite_loss", message=f"the loss became NaN or infinite in epoch {epoch}")


def failure(metrics: EpochMetrics, history: Sequence[EpochMetrics], num_classes: int, last_epoch: bool) -> Flag | None:
    """What is wrong with the network after an epoch, None if nothing is seen; `history` holds the epochs before."""
    clean, robust = metrics.probed_acc
    single, best = metrics.val_fgsm_acc, max((before.probed_acc[1] for before in history), default=0.0)
    if single is not None and _confuses_single_steps(single, robust, best, last_epoch):
        message = f"catastrophic overfitting in epoch {metrics.epoch}: FGSM leaves {single:.1%}, PGD {robust:.1%}"
        return Flag(code="catastrophic_overfitting", message=message)
    chance = 1 / num_classes
    at_chance, above = min(1.2 * chance, 0.9 * chance + 0.1), min(2 * chance, (1 + chance) / 2)  # the latter: 2 classes
    better = max((before.probed_acc[0] for before in history), default=0.0)
    if clean <= at_chance and (better >= above or last_epoch):
        message = f"collapsed to chance in epoch {metrics.epoch}: {clean:.1%} of clean images, {better:.1%} before"
        return Flag(code="collapse", message=message)
    return None


def _confuses_single_steps(single: float, robust: float, best: float, last_epoch: bool) -> bool:
    """Accuracy under FGSM far above that under PGD, which has halved since its best and fallen far, or never came.

    A network that has only begun to learn also withstands FGSM longer than PGD where eps is large; so what never was
    robust is judged at the end, or where FGSM is withstood well.
    """
    fell, never = robust < best / 2 and best - robust > FALL, robust <= single / 4 and (last_epoch or single > 0.5)
    return robust < single / 2 and single - robust > SINGLE_STEP_GAP and (fell or never)
