"""The tests of a report on the same test images: how far two cells, or two sets of weights, differ, and its p-value."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from deatbench.records import SweepResult
from deatbench.report.standings.significance import LEVEL, paired
from deatbench.report.sweeps.cells import Cell, Measure


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs on the same `n` images, with the p of the paired test over images and seeds.

    `n` and `p_value` are None where the runs share no images.
    """

    value: float
    n: int | None
    p_value: float | None

    @property
    def settled(self) -> int:
        """1 or -1 where the test settles the sign at 5 %, else 0."""
        if self.p_value is None or self.p_value >= LEVEL or self.value == 0:
            return 0
        return 1 if self.value > 0 else -1


def difference(ours: Cell, theirs: Cell, measure: Measure, other: Measure | None = None) -> Difference | None:
    """How ours differs from theirs in `measure` (theirs in `other` if given); None where one was not measured."""
    against = other or measure
    a, b = ours.mean(measure), theirs.mean(against)
    if a is None or b is None:
        return None
    seen = ours.images(measure) | theirs.images(against)
    a_MN, b_KN = ours.verdicts(measure), theirs.verdicts(against)
    n = min(a_MN.shape[1], b_KN.shape[1])
    if len(seen) != 1 or not n:
        return Difference(a - b, None, None)
    a_MN, b_KN = a_MN[:, :n], b_KN[:, :n]
    return Difference(float(a_MN.mean() - b_KN.mean()), n, paired(a_MN, b_KN))


def pooled(pairs: Sequence[tuple[Cell, Cell]], measure: Measure) -> Difference | None:
    """The mean difference over several pairs of cells, tested on the images that all of them saw; None without any.

    As `paired`, with the pairs as they are: each image gives the mean of its differences over pairs and seeds, and the
    variance is that over images / N plus what seeds add, the sum of s² / runs over all cells, / pairs².
    """
    known = [(a, b) for a, b in pairs if a.mean(measure) is not None and b.mean(measure) is not None]
    if len(known) < 2:
        return difference(*known[0], measure) if known else None
    images = set().union(*(cell.images(measure) for pair in known for cell in pair))
    verdicts = [(a.verdicts(measure), b.verdicts(measure)) for a, b in known]
    n = min(each_MN.shape[1] for pair in verdicts for each_MN in pair)
    if len(images) != 1 or not n:
        means = [(a.mean(measure) or 0.0) - (b.mean(measure) or 0.0) for a, b in known]
        return Difference(math.fsum(means) / len(means), None, None)
    cells_MN = [each_MN[:, :n] for pair in verdicts for each_MN in pair]
    gains_N = sum(a_MN[:, :n].mean(axis=0) - b_KN[:, :n].mean(axis=0) for a_MN, b_KN in verdicts) / len(known)
    assert isinstance(gains_N, np.ndarray)
    return Difference(float(gains_N.mean()), n, _pooled_p(gains_N, cells_MN))


def within(cell: Cell, measure: Measure, other: Measure) -> Difference | None:
    """`measure` minus `other` in the same trainings, which have both; None where none has.

    As `difference`, but what seeds add is the spread of each training's own difference: both sets of weights share
    what a seed does to their training.
    """
    runs = tuple(run for run in cell.runs if all(m.metric in _metrics(run, m) for m in (measure, other)))
    if not runs:
        return None
    both = Cell(cell.settings, cell.label, runs)
    a_MN, b_MN = both.verdicts(measure), both.verdicts(other)
    n = min(a_MN.shape[1], b_MN.shape[1])
    if len(runs) == 1 or len(both.images(measure) | both.images(other)) != 1 or not n:
        return difference(both, both, measure, other)
    gains_MN = a_MN[:, :n].astype(float) - b_MN[:, :n]
    gains_M = gains_MN.mean(axis=1)
    p_value = _welch_p(gains_MN.mean(axis=0), [(float(gains_M.var(ddof=1)) / len(runs), len(runs) - 1)])
    return Difference(float(gains_M.mean()), n, p_value)


def _metrics(run: SweepResult, measure: Measure) -> Collection[str]:
    kept = run.weights.get(measure.weights)
    return kept.metrics if kept else ()


def _pooled_p(gains_N: np.ndarray, cells_MN: Sequence[np.ndarray]) -> float:
    pairs, several = len(cells_MN) / 2, [cell_MN for cell_MN in cells_MN if len(cell_MN) > 1]
    seeds = [(float(c.mean(axis=1).var(ddof=1)) / len(c) / pairs**2, len(c) - 1) for c in several]
    return _welch_p(gains_N, seeds)


def _welch_p(gains_N: np.ndarray, seeds: Sequence[tuple[float, int]]) -> float:
    """Student's p after Welch and Satterthwaite that the mean over images is 0.

    Beside the images, `seeds` are further parts of its variance with their degrees of freedom. A variance below
    rounding is that of n tosses that fall alike.
    """
    n, mean = len(gains_N), float(gains_N.mean())
    parts = [*([(float(gains_N.var(ddof=1)) / n, n - 1)] if n > 1 else []), *seeds]
    total = sum(variance for variance, _ in parts)
    if total < 1e-18:
        return 1.0 if abs(mean) < 1e-12 else 2.0 ** (1 - n)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    return 2 * float(stdtr(freedom, -abs(mean) / math.sqrt(total)))
