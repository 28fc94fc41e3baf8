"""One row of a board: runs that differ by nothing but their seed."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from deatbench.records import Flag, Metric, ModelInfo, TrainingInfo, wilson_interval
from deatbench.report.standings.runs import AUTOATTACK, WORST_CASE, Run, Tier, unique


class Section(IntEnum):
    """How far a row's number may be trusted; the sections of a board, in their order."""

    RANKED = 0
    NO_AUTOATTACK = 1
    FLAGGED = 2


@dataclass(frozen=True)
class Summary:
    """One metric over the runs of a row.

    `spread` is the sample standard deviation over seeds (None for one run). `ci95` is the Wilson interval of the
    mean at the images of *one* run: seeds share their test images, so pooling them would claim too much.
    """

    mean: float
    spread: float | None
    n: int
    ci95: tuple[float, float]

    @classmethod
    def of(cls, metrics: Sequence[Metric]) -> Summary:
        """Summary of at least one metric."""
        values = [metric.value for metric in metrics]
        mean, n = statistics.fmean(values), min(metric.n for metric in metrics)
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean, spread, n, metrics[0].ci95 if len(metrics) == 1 else wilson_interval(round(mean * n), n))


class Row:
    """One configuration: runs that differ by nothing but their seed.

    `rank` is its place, `band` the first and the last place that the images do not rule out; None unless it is ranked.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = sorted(runs, key=lambda run: (run.training.seed if run.training else 0, run.model.sha256))
        self.rank: int | None = None
        self.band: tuple[int, int] | None = None

    @property
    def model(self) -> ModelInfo:
        """The network of the first run."""
        return self.runs[0].model

    @property
    def training(self) -> TrainingInfo | None:
        """Training of the first run; the others differ in seed, time and digest only."""
        return self.runs[0].training

    @cached_property
    def label(self) -> str:
        """The runs' name without the dataset's; of several, the parts in front that they share (no `-s0`)."""
        dataset = self.runs[0].evaluations[0].dataset.name
        names = [run.model.name.removeprefix(f"{dataset}-") for run in self.runs]
        if len(set(names)) == 1:
            return names[0]
        shared: list[str] = []
        for parts in zip(*(name.split("-") for name in names), strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        return "-".join(shared) or self.model.arch

    @property
    def family(self) -> str:
        """The architecture's family: its name without depth and width, `preact_resnet` of `preact_resnet18`."""
        found = re.match(r"[A-Za-z]+(_[A-Za-z]+)*", self.model.arch)
        return found[0] if found else self.model.arch

    @property
    def extra_data(self) -> bool | None:
        """Whether images beyond the training split were used; None where nobody says."""
        return None if self.training is None else False

    @property
    def flops(self) -> int | None:
        """Operations of one forward pass of one image, a multiply-add as two, where the zoo knows them."""
        return next((run.card.training.flops for run in self.runs if run.card), None)

    @cached_property
    def passes(self) -> float:
        """Forward passes per image that the deciding evaluations spent, the mean over runs."""
        return statistics.fmean(
            sum(attack.forward_passes for attack in run.deciding.attacks) / run.deciding.samples.n for run in self.runs
        )

    @cached_property
    def tier(self) -> Tier:
        """The lowest of its runs."""
        return min(run.tier for run in self.runs)

    @cached_property
    def _summaries(self) -> dict[str, Summary | None]:
        return {}

    def summary(self, name: str) -> Summary | None:
        """Metric `name` over the runs that have it; the worst case over those attacked by AutoAttack, if any."""
        if name not in self._summaries:
            runs = self.ranking_runs if name == WORST_CASE else self.runs
            metrics = [run.metrics[name] for run in runs if name in run.metrics]
            self._summaries[name] = Summary.of(metrics) if metrics else None
        return self._summaries[name]

    @cached_property
    def ranking_runs(self) -> list[Run]:
        """The runs that give the row its place: those attacked by AutoAttack, if any."""
        return [run for run in self.runs if AUTOATTACK in run.metrics] or self.runs

    @property
    def images(self) -> str | None:
        """Key of the images that its place was decided on; None if the runs do not share them."""
        keys = {(run.images, run.deciding.samples.n) for run in self.ranking_runs}
        return self.ranking_runs[0].images if len(keys) == 1 else None

    @property
    def verdicts(self) -> np.ndarray | None:
        """Who survives everything, as packed bits, uint8 [runs, ceil(n/8)]; None if the runs share no images."""
        return None if self.images is None else np.stack([run.surviving for run in self.ranking_runs])

    @cached_property
    def flags(self) -> list[Flag]:
        """Flags of all runs, each once."""
        return unique(flag for run in self.runs for flag in run.flags)

    @cached_property
    def notes(self) -> list[Flag]:
        """Training notes of all runs, each once."""
        return unique(flag for run in self.runs for flag in run.notes)

    @property
    def section(self) -> Section:
        """Where on the board the row stands."""
        if self.flags:
            return Section.FLAGGED
        return Section.RANKED if self.summary(AUTOATTACK) else Section.NO_AUTOATTACK

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key: section, then worst case, AutoAttack and clean accuracy downwards, then names."""
        means = [-(summary.mean if (summary := self.summary(name)) else -1.0) for name in _ORDER]
        return (self.section, *means, self.label, self.model.sha256, self.runs[0].evaluations[0].id)


_ORDER = (WORST_CASE, AUTOATTACK, "clean_acc")
