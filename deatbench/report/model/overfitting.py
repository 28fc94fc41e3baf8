"""Where training began to cost robustness: validation accuracy falls while that on training images still rises.

L. Rice, E. Wong, J. Z. Kolter 2020, "Overfitting in adversarially robust deep learning" (arXiv 2002.11569).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from deatbench.records import EpochMetrics

FEWEST_EPOCHS = 6
END = 10  # the end of a training: a tenth of its epochs, three at least


@dataclass(frozen=True)
class Overfitting:
    """Robust accuracy on the validation images after `epoch`: it falls by `fall` to the end, on training images it
    rises by `rise`; both are shares of images."""

    epoch: int
    fall: float
    rise: float


def discernible(share: float, n: int) -> float:
    """The difference of two accuracies near `share`, on n images each, that chance reaches once in twenty times.

    One success and one failure are added to each (Agresti and Caffo 2000): at 0 and 1 it would vanish otherwise.
    """
    near = (share * n + 1) / (n + 2)
    return 1.96 * math.sqrt(2 * near * (1 - near) / (n + 2))


def robust_overfitting(epochs: Sequence[EpochMetrics], n_val: int) -> Overfitting | None:
    """Whether and from which epoch on; None if validation accuracy does not fall by more than chance explains.

    Accuracies are means of three neighbouring epochs; the end is the mean of the last tenth.
    """
    known = [(e.epoch, e.val_robust_acc, e.subset_robust_acc) for e in epochs if e.val_robust_acc is not None]
    if len(known) < FEWEST_EPOCHS or n_val < 1:
        return None
    validation, training = _smooth([each[1] for each in known]), _smooth([each[2] for each in known])
    peak = max(range(len(known)), key=lambda index: (validation[index], -index))
    last = known[-max(3, len(known) // END) :]
    fall = validation[peak] - statistics.fmean(each[1] for each in last)
    rise = statistics.fmean(each[2] for each in last) - training[peak]
    if fall <= discernible(validation[peak], n_val) or rise <= 0:
        return None
    return Overfitting(known[peak][0], fall, rise)


def _smooth(values: Sequence[float]) -> list[float]:
    """Means of each value and its neighbours."""
    return [statistics.fmean(values[max(0, index - 1) : index + 2]) for index in range(len(values))]
