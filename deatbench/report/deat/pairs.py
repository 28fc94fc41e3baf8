"""DEAT beside PGD-AT: which trainings on a board differ in nothing but the update."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from deatbench.records import Checkpoint, digest_of
from deatbench.report.deat.comparisons import Comparison, comparisons
from deatbench.report.setups import network, number, part, steady_step
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row
from deatbench.report.standings.runs import AUTOATTACK, CLEAN

CHECKPOINTS: tuple[Checkpoint, ...] = ("best", "last", "ema", "swa")
METHODS = ("deat", "pgd-at")
MATCHED = 0.1  # steps on a steady gradient that differ by less than this share count as matched


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
    return {name: tuple(comparisons(deat.rows[name], baseline.rows[name])) for name in shared}
