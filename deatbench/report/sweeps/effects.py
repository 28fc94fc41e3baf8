"""Do the means of cells differ by more than their seeds explain? F-tests of the analysis of variance.

The noise is what runs of one cell differ by, pooled over all cells. All runs were tested on the same images, so what is
found is found on these images. Fisher, Statistical Methods for Research Workers (1925), chapter VII.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from deatbench.report.sweeps.cells import Cell, Measure

Level = tuple[float, int]  # a mean, and the number of runs behind it


@dataclass(frozen=True)
class Noise:
    """The variance of one run about its cell's mean, and its degrees of freedom, at least 1."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, cells: Iterable[Cell], measure: Measure) -> Noise | None:
        """Pooled over cells; None where no cell has two runs."""
        accuracies = [values for cell in cells if len(values := _values(cell, measure)) > 1]
        freedom = sum(len(values) - 1 for values in accuracies)
        if not freedom:
            return None
        squares = math.fsum(float(np.var(values)) * len(values) for values in accuracies)
        return cls(squares / freedom, freedom)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds."""
        return math.sqrt(self.variance)

    def p_value(self, groups: Iterable[Sequence[Level]]) -> float | None:
        """That the levels of each group have one mean, whatever it is; None where no group has two levels."""
        freedom, squares = 0, 0.0
        for levels in groups:
            means, runs = (np.array(column, dtype=float) for column in zip(*levels, strict=True))
            freedom += len(means) - 1
            squares += float(runs @ (means - np.average(means, weights=runs)) ** 2)
        if not freedom:
            return None
        if self.variance == 0:
            return 1.0 if squares < 1e-18 else 0.0
        return float(fdtrc(freedom, self.freedom, squares / freedom / self.variance))


def level(cells: Iterable[Cell], measure: Measure) -> Level | None:
    """The mean of the cells' means and how many runs they have; None where none has the measure."""
    known = [values for cell in cells if (values := _values(cell, measure))]
    if not known:
        return None
    return math.fsum(math.fsum(values) / len(values) for values in known) / len(known), sum(map(len, known))


def _values(cell: Cell, measure: Measure) -> list[float]:
    return [metric.value for metric in cell.metrics(measure)]
