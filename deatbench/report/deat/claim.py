"""What DEAT's paper reports: its Table 2, and the statistics that follow from those numbers alone.

Sun, Sinha, Zhang, "Enhance Diffusion to Improve Robust Generalization", KDD 2023 (arXiv 2306.02618). Nothing here was
measured by deatbench; every statistic is computed anew from the table each time the pages are built.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from deatbench.report.reference import DEAT_TABLE_2
from deatbench.report.standings.correlations import kendall, paired_t_test, pearson, spearman

ARCHS = {"vgg19": "VGG-19", "senet18": "SENet-18", "preact_resnet18": "PreAct-ResNet-18"}


@dataclass(frozen=True)
class Ranks:
    """How closely robust accuracy follows the learning rate: Pearson's r, Spearman's rho, Kendall's tau (b)."""

    pearson: float
    spearman: float
    kendall: float


@dataclass(frozen=True)
class Series:
    """One architecture of Table 2: PGD-10 test accuracy in percent at the last epoch, per learning rate."""

    arch: str
    rates: tuple[float, ...]
    pgd_at: tuple[float, ...]
    deat: tuple[float, ...]

    @property
    def title(self) -> str:
        """The architecture as the paper writes it."""
        return ARCHS[self.arch]

    @property
    def gains(self) -> tuple[float, ...]:
        """DEAT minus PGD-AT in points, per learning rate."""
        return tuple(deat - pgd_at for deat, pgd_at in zip(self.deat, self.pgd_at, strict=True))

    @property
    def mean_gain(self) -> float:
        """The mean of the gains in points."""
        return statistics.fmean(self.gains)

    @property
    def best_gain(self) -> float:
        """Best DEAT minus best PGD-AT, each at its own learning rate, in points."""
        return max(self.deat) - max(self.pgd_at)

    @property
    def p_value(self) -> float:
        """Two-sided p of the paired t-test over the learning rates."""
        return paired_t_test(self.deat, self.pgd_at)

    def ranks(self, values: Sequence[float]) -> Ranks:
        """Correlations of one accuracy per learning rate with the learning rate."""
        return Ranks(pearson(self.rates, values), spearman(self.rates, values), kendall(self.rates, values))


@cache
def table2() -> tuple[Series, ...]:
    """The paper's Table 2, an architecture each, in the order of ARCHS."""
    with DEAT_TABLE_2.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> tuple[float, ...]:
        return tuple(float(row[name]) for row in rows)

    return tuple(Series(arch, column("lr"), column(f"{arch}_pgd_at"), column(f"{arch}_deat")) for arch in ARCHS)
