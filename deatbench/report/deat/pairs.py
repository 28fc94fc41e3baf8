"""DEAT beside PGD-AT: trainings that differ in nothing but the update, tested on the same images.

The words follow from the numbers: a difference counts where the paired test of `significance` settles it at 5 %, or,
without shared images, where the 95 % intervals do not overlap. The sign decides between better and worse.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from deatbench.records import Checkpoint, EvaluationRecord, digest_of
from deatbench.report.setups import network, number, part, steady_step
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row, Summary
from deatbench.report.standings.runs import AUTOATTACK, CLEAN
from deatbench.report.standings.significance import LEVEL, paired

CHECKPOINTS: tuple[Checkpoint, ...] = ("best", "last", "ema", "swa")
METHODS = ("deat", "pgd-at")
MATCHED = 0.1  # steps on a steady gradient that differ by less than this share count as matched


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


@dataclass(frozen=True)
class Setup:
    """One configuration, whatever its seeds, with a row per kept set of weights; `alike` is all but the update."""

    rows: Mapping[Checkpoint, Row]
    alike: str

    @property
    def first(self) -> Row:
        """The row that names the setup."""
        return next(self.rows[name] for name in CHECKPOINTS if name in self.rows)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of its first run."""
        assert self.first.training is not None
        return self.first.training.config

    @property
    def network(self) -> str:
        """The architecture with its parameters."""
        return network(self.first.model.arch, self.first.model.params)

    @property
    def seeds(self) -> int:
        """How many runs there are."""
        return len(self.first.runs)

    @property
    def is_deat(self) -> bool:
        """Whether DEAT's update made it; PGD-AT with that update is the same training under another name."""
        assert self.first.training is not None
        return self.first.training.optimizer == "deat"

    @property
    def momentum(self) -> float | None:
        """SGD's momentum; None for another optimizer."""
        spec = part(self.config, "optimizer")
        return number(spec.get("momentum")) if spec.get("name") == "sgd" else None

    @property
    def rate(self) -> float | None:
        """The peak learning rate."""
        return number(part(self.config, "optimizer").get("lr"))

    @property
    def flags(self) -> list[str]:
        """Codes of all flags of all its rows, each once, sorted."""
        return sorted({flag.code for row in self.rows.values() for flag in (*row.flags, *row.notes)})


class Pair(NamedTuple):
    """DEAT and one PGD-AT that shares everything but the update, with what was compared per set of weights."""

    deat: Setup
    baseline: Setup
    comparisons: Mapping[Checkpoint, tuple[Comparison, ...]]

    @property
    def deciding(self) -> tuple[Checkpoint, Comparison] | None:
        """The comparison that speaks for the pair: under AutoAttack if there is one, else under PGD; best first."""
        every = [(name, each) for name in CHECKPOINTS for each in self.comparisons.get(name, ())]
        robust = [found for found in every if found[1].metric != CLEAN]
        return min(robust, key=lambda found: found[1].metric != AUTOATTACK, default=None)

    @property
    def as_in_paper(self) -> tuple[Checkpoint, Comparison] | None:
        """The comparison that is most like the paper's: under PGD, the weights of the last epoch."""
        found = (each for each in self.comparisons.get("last", ()) if each.metric not in (CLEAN, AUTOATTACK))
        return next((("last", each) for each in found), None)

    @property
    def seeds(self) -> str:
        """How many runs are behind it: `3 seeds each`, `1 and 3 seeds`."""
        ours, theirs = self.deat.seeds, self.baseline.seeds
        return f"{ours} {'seed' if ours == 1 else 'seeds'} each" if ours == theirs else f"{ours} and {theirs} seeds"

    @property
    def matched(self) -> bool:
        """Whether both steps go about as far on a steady gradient."""
        ours, theirs = steady_step(self.deat.config), steady_step(self.baseline.config)
        return bool(ours and theirs and abs(ours / theirs - 1) < MATCHED)


def standing_after_holm(p_values: Sequence[float]) -> int:
    """How many of several tests are still significant after the correction of Holm (1979)."""
    held = 0
    for rank, p_value in enumerate(sorted(p_values)):
        if p_value * (len(p_values) - rank) >= LEVEL:
            break
        held += 1
    return held


def setups_of(board: Board) -> list[Setup]:
    """The configurations of DEAT and PGD-AT on a board, in the order of their rows."""
    rows: dict[tuple[str, str], dict[Checkpoint, Row]] = defaultdict(dict)
    for row in board.rows:
        if row.training is not None and row.training.method in METHODS:
            rows[_keys(row)].setdefault(row.training.checkpoint, row)
    setups = [Setup(members, alike) for (alike, _), members in rows.items()]
    return sorted(setups, key=lambda setup: (setup.network, setup.alike, *_baseline_order(setup)))


def _keys(row: Row) -> tuple[str, str]:
    """Digests of all that a pair has to share, and of the update."""
    training, images = row.training, row.runs[0].evaluations[0].dataset
    assert training is not None
    apart = ("seed", "evaluation", "method", "optimizer")
    shared = {key: value for key, value in training.config.items() if key not in apart}
    details = {key: value for key, value in part(training.config, "method").items() if key != "name"}
    made = [training.recipe, training.epochs, training.n_train, training.n_val, training.bn_mode]
    alike = digest_of([row.model.arch, row.model.params, shared, details, made, images.split, images.sha256])
    return alike, digest_of([training.config.get("method"), training.config.get("optimizer"), training.optimizer])


def pairs_of(setups: Sequence[Setup]) -> list[Pair]:
    """Every DEAT with the PGD-ATs that share all but the update, in the order of `setups`.

    Of several learning rates with the same momentum: those of the same rate or the matched step, else the nearest step.
    """
    alike: dict[str, dict[float | None, list[Setup]]] = defaultdict(lambda: defaultdict(list))
    for setup in setups:
        if not setup.is_deat:
            alike[setup.alike][setup.momentum].append(setup)
    return [
        Pair(deat, baseline, _compared(deat, baseline))
        for deat in setups
        if deat.is_deat
        for group in alike[deat.alike].values()
        for baseline in _nearest(deat, group)
    ]


def _nearest(deat: Setup, baselines: Sequence[Setup]) -> list[Setup]:
    """Those of DEAT's learning rate or step; if there are none, the one whose step comes nearest."""
    same = [other for other in baselines if other.rate == deat.rate or Pair(deat, other, {}).matched]
    return same or [min(baselines, key=lambda other: _distance(deat, other))]


def _distance(deat: Setup, baseline: Setup) -> float:
    """How far apart the steps on a steady gradient are, as a factor's logarithm."""
    ours, theirs = steady_step(deat.config), steady_step(baseline.config)
    return abs(math.log(ours / theirs)) if ours and theirs and ours > 0 and theirs > 0 else math.inf


def _baseline_order(setup: Setup) -> tuple[float, float, str]:
    momentum, step = setup.momentum, steady_step(setup.config)
    return (2.0 if momentum is None else momentum, step or 0.0, digest_of(part(setup.config, "optimizer")))


def _compared(deat: Setup, baseline: Setup) -> dict[Checkpoint, tuple[Comparison, ...]]:
    shared = [name for name in CHECKPOINTS if name in deat.rows and name in baseline.rows]
    return {name: tuple(_comparisons(deat.rows[name], baseline.rows[name])) for name in shared}


def _comparisons(deat: Row, baseline: Row) -> Iterable[Comparison]:
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
    a_MN, b_KN = (np.stack([_verdicts(record, metric)[:n] for record in records]) for records in both)
    return a_MN, b_KN


def _verdicts(record: EvaluationRecord, metric: str) -> np.ndarray:
    return record.samples.clean_N() if metric == CLEAN else record.samples.robust_N(metric)
