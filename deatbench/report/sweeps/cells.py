"""Cells: the runs of a sweep that differ by nothing but their seed, and what was measured of them."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from deatbench.records import Checkpoint, Metric, SweepResult
from deatbench.report.escape import plain
from deatbench.report.metrics import describe, place
from deatbench.report.setups import network, number, part, steady_step
from deatbench.report.standings.rows import Summary
from deatbench.report.standings.runs import AUTOATTACK, CLEAN, WORST_CASE
from deatbench.report.wording import percent

CHECKPOINTS: tuple[Checkpoint, ...] = ("last", "best", "ema", "swa", "shifted")
_PGD = re.compile(r"pgd-\d{1,6}")


class Measure(NamedTuple):
    """An accuracy: of which weights, under what."""

    weights: Checkpoint
    metric: str

    @property
    def title(self) -> str:
        """`PGD-20, last weights`."""
        return f"{describe(self.metric).title}, {self.weights} weights"

    @property
    def robust(self) -> bool:
        """Whether it is an accuracy under attack."""
        return self.metric != CLEAN


def measures_of(results: Iterable[SweepResult]) -> list[Measure]:
    """All that was measured: first as the DEAT paper tests (PGD of the last epoch), then best, AutoAttack, clean."""
    found = {Measure(weights, name) for each in results for weights, of in each.weights.items() for name in of.metrics}
    found = {measure for measure in found if measure.metric != WORST_CASE}
    steps = [int(m.metric.removeprefix("pgd-")) for m in found if _PGD.fullmatch(m.metric)]
    longest = f"pgd-{max(steps)}" if steps else AUTOATTACK
    first = [longest, AUTOATTACK, CLEAN]

    def order(measure: Measure) -> tuple[Any, ...]:
        known = first.index(measure.metric) if measure.metric in first else len(first)
        beside = CHECKPOINTS.index(measure.weights)
        return (beside > 1, known, beside, *place(measure.metric))

    return sorted(found, key=order)


@dataclass(frozen=True, eq=False)
class Cell:
    """At least one run. `settings` say where in the sweep it lies, the seed aside; `label` says the same in a line."""

    settings: Mapping[str, Any]
    label: str
    runs: tuple[SweepResult, ...]
    _known: dict[Measure, Summary | None] = field(default_factory=dict, repr=False)
    _verdicts: dict[Measure, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of its first run."""
        return self.runs[0].config

    @property
    def seeds(self) -> int:
        """How many runs there are."""
        return len(self.runs)

    @cached_property
    def network(self) -> str:
        """The architecture with its parameters."""
        arch = part(self.config, "arch")
        return network(str(arch.get("name", "?")), {key: arch[key] for key in arch if key != "name"})

    @cached_property
    def rate(self) -> float | None:
        """The peak learning rate."""
        return number(self.value("optimizer.lr"))

    @cached_property
    def step(self) -> float | None:
        """How far a step goes along a gradient that stays the same."""
        return steady_step(self.config)

    def value(self, key: str) -> Any:
        """A setting by recipe key: as its point gives it, else as its configuration does; None if neither does."""
        if key in self.settings:
            return self.settings[key]
        found: Any = self.config
        for name in key.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def metrics(self, measure: Measure) -> list[Metric]:
        """The measure of each run that has it."""
        kept = (run.weights.get(measure.weights) for run in self.runs)
        return [of.metrics[measure.metric] for of in kept if of is not None and measure.metric in of.metrics]

    def summary(self, measure: Measure) -> Summary | None:
        """Mean, spread over seeds and the interval of the images; None where no run has the measure."""
        if measure not in self._known:
            metrics = self.metrics(measure)
            self._known[measure] = Summary.of(metrics) if metrics else None
        return self._known[measure]

    def mean(self, measure: Measure) -> float | None:
        """The mean over seeds."""
        summary = self.summary(measure)
        return None if summary is None else summary.mean

    def interval(self, measure: Measure) -> tuple[float, float] | None:
        """95 %: of several seeds Student's of their mean, of one the images' (Wilson)."""
        summary = self.summary(measure)
        if summary is None or summary.spread is None:
            return None if summary is None else summary.ci95
        n = len(self.metrics(measure))
        half = float(stdtrit(n - 1, 0.975)) * summary.spread / math.sqrt(n)
        return max(0.0, summary.mean - half), min(1.0, summary.mean + half)

    def verdicts(self, measure: Measure) -> np.ndarray:
        """Who withstands, bool [runs that have the measure, N of the run with fewest images]; clean: who is right."""
        if measure not in self._verdicts:
            kept = [run.weights[measure.weights] for run in self.runs if measure.weights in run.weights]
            kept = [of for of in kept if measure.metric in of.metrics]
            rows = [of.robust_N(measure.metric) if measure.robust else of.clean_N() for of in kept]
            n = min((len(row) for row in rows), default=0)
            found = np.stack([row[:n] for row in rows]) if rows else np.zeros((0, 0), dtype=bool)
            self._verdicts[measure] = found
        return self._verdicts[measure]

    def images(self, measure: Measure) -> set[tuple[Any, ...]]:
        """What tells lists of images apart: one key if all its runs saw the same."""
        kept = ((run, run.weights.get(measure.weights)) for run in self.runs)
        return {(run.dataset.split, run.dataset.sha256, of.samples.indices) for run, of in kept if of is not None}

    def validation(self, weights: Checkpoint) -> float | None:
        """Mean robust accuracy on validation images of the epoch that gave the weights; None if it is not known."""
        found = []
        for run in self.runs:
            series = run.epochs.val_robust_acc
            turn = run.best_epoch if weights == "best" else len(series)
            value = series[turn - 1] if 0 < turn <= len(series) else None
            if value is None:
                return None
            found.append(value)
        return statistics.fmean(found)

    def gap(self, weights: Checkpoint) -> list[tuple[float, float]]:
        """(train, test) robust accuracy of each run under the same attack."""
        kept = (of for run in self.runs if (of := run.weights.get(weights)) is not None)
        return [(g.train_robust_acc, g.test_robust_acc) for of in kept if (g := of.generalisation) is not None]


def cells_of(results: Iterable[SweepResult], *, by_point: bool = False) -> list[Cell]:
    """The runs by configuration, in their order; `by_point` by where they lie in the sweep, maybe in several cells."""
    groups: dict[str, dict[str, SweepResult]] = {}
    places: dict[str, tuple[dict[str, Any], str]] = {}
    for result in results:
        alike = json.dumps([without_seed(result.config), result.evaluation], sort_keys=True)
        for point in result.points if by_point else result.points[:1]:
            settings = {name: value for name, value in point.settings.items() if name != "seed"}
            label = _label(point.label)
            key = json.dumps([settings, label, result.digest], sort_keys=True) if by_point else alike
            groups.setdefault(key, {})[result.run_id] = result
            places.setdefault(key, (settings, label))
    return [Cell(*places[key], tuple(sorted(of.values(), key=_seed))) for key, of in groups.items()]


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that runs of other seeds share."""
    return {key: value for key, value in config.items() if key != "seed"}


def _label(label: str) -> str:
    return plain(re.sub(r"(^| )seed=\S+", "", label).strip() or "all runs", 120)


def _seed(run: SweepResult) -> tuple[float, str]:
    return number(run.config.get("seed")) or 0.0, run.run_id


def written(summary: Summary | None) -> str:
    """`45.0 ±0.6`, a dash for nothing."""
    if summary is None:
        return "–"
    return percent(summary.mean) + ("" if summary.spread is None else f" ±{percent(summary.spread)}")


def seeds_of(cells: Sequence[Cell]) -> str:
    """How many seeds cells have: `3 seeds`, `2 to 3 seeds`."""
    counts = sorted({cell.seeds for cell in cells}) or [0]
    low, high = counts[0], counts[-1]
    return f"{high} {'seed' if high == 1 else 'seeds'}" if low == high else f"{low} to {high} seeds"


def axes_of(cells: Sequence[Cell]) -> dict[str, list[Any]]:
    """The settings that take more than one value among the cells, with their values in order of appearance."""
    names = dict.fromkeys(name for cell in cells for name in cell.settings)
    found = {
        name: list({json.dumps(c.settings[name]): c.settings[name] for c in cells if name in c.settings}.values())
        for name in names
    }
    return {name: values for name, values in found.items() if len(values) > 1}
