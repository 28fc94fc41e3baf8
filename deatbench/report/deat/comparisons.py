"""One row of DEAT and one of PGD-AT, tested on the same images.

The words follow from the numbers: a difference counts where the paired test of `significance` settles it at 5 %, or,
without shared images, where the 95 % intervals do not overlap. The sign decides between better and worse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from deatbench.report.standings.rows import Row, Summary
from deatbench.report.standings.runs import AUTOATTACK, CLEAN
from deatbench.report.standings.significance import LEVEL, paired


class Verdict(StrEnum):
    """What a comparison says about DEAT."""

    BETTER = "DEAT is better"
    WORSE = "DEAT is worse"
    OPEN = "no difference that these images can show"


@dataclass(frozen=True)
class Comparison:
    """One accuracy of both. `difference` is DEAT minus PGD-AT in [-1, 1].

    It is over the `n` images that all runs saw; without such images, `n` and `p_value` are None.
    """

    metric: str
    deat: Summary
    baseline: Summary
    difference: float
    n: int | None
    p_value: float | None

    @property
    def verdict(self) -> Verdict:
        """Better or worse only where the difference is more than chance."""
        if self.p_value is not None:
            settled = self.p_value < LEVEL and self.difference != 0
        else:
            (low, high), (other_low, other_high) = self.deat.ci95, self.baseline.ci95
            settled = low > other_high or high < other_low
        if not settled:
            return Verdict.OPEN
        return Verdict.BETTER if self.difference > 0 else Verdict.WORSE


def comparisons(deat: Row, baseline: Row) -> Iterator[Comparison]:
    """Clean accuracy, that under the longest PGD that both met, and under AutoAttack, each where both have it."""
    for metric in (CLEAN, *_attacks(deat, baseline)):
        ours, theirs = deat.summary(metric), baseline.summary(metric)
        if ours is None or theirs is None:
            continue
        verdicts = _on_shared_images(deat, baseline, metric)
        if verdicts is None:
            yield Comparison(metric, ours, theirs, ours.mean - theirs.mean, None, None)
        else:
            a_MN, b_KN = verdicts
            difference = float(a_MN.mean() - b_KN.mean())
            yield Comparison(metric, ours, theirs, difference, a_MN.shape[1], paired(a_MN, b_KN))


def _attacks(deat: Row, baseline: Row) -> list[str]:
    """The longest PGD that both withstood, and AutoAttack."""
    common = [name for name in _names(deat) & _names(baseline) if re.fullmatch(r"pgd-\d{1,6}", name)]
    longest = max(common, key=lambda name: int(name.removeprefix("pgd-")), default=None)
    return [*([longest] if longest else []), AUTOATTACK]


def _names(row: Row) -> set[str]:
    return {name for run in row.runs for name in run.metrics}


def _on_shared_images(deat: Row, baseline: Row, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Verdicts (bool [runs, N]) of both on images that every run saw; None if there are no such images."""
    both = [[run.sources[metric] for run in row.runs if metric in run.sources] for row in (deat, baseline)]
    every = [record for records in both for record in records]
    images = {(record.dataset.split, record.dataset.sha256, record.samples.indices) for record in every}
    if len(images) != 1:
        return None
    n = min(record.samples.n for record in every)
    a_MN, b_KN = (np.stack([record.samples.verdicts_N(metric)[:n] for record in records]) for records in both)
    return a_MN, b_KN
