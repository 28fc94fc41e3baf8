"""What stands on a board: one board per dataset and threat, one row per configuration, one run per set of weights."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from deatbench.records import (
    EvaluationRecord,
    Flag,
    Metric,
    ModelCard,
    ModelInfo,
    Threat,
    TrainingInfo,
    digest_of,
    wilson_interval,
)

WORST_CASE = "worst_case_acc"
AUTOATTACK = "autoattack"


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


class Run:
    """One set of weights with every evaluation of it under the board's threat, oldest first."""

    def __init__(self, evaluations: Iterable[EvaluationRecord], card: ModelCard | None) -> None:
        self.evaluations = sorted(evaluations, key=lambda record: (record.created, record.id))
        self.card = card

    @property
    def model(self) -> ModelInfo:
        """The network, as its latest evaluation names it."""
        return self.evaluations[-1].model

    @property
    def training(self) -> TrainingInfo | None:
        """How the weights came to be; None for a foreign model."""
        return self.evaluations[-1].training

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Each metric from the evaluation with the most images; of equally large ones, the lowest value.

        The lowest, so that repeating an evaluation cannot raise a number. The worst case comes from evaluations
        with AutoAttack where there are any: without it, it is only an upper bound.
        """
        chosen: dict[str, Metric] = {}
        for name in {name for record in self.evaluations for name in record.metrics}:
            records = [record for record in self.evaluations if name in record.metrics]
            if name == WORST_CASE:
                records = [record for record in records if AUTOATTACK in record.metrics] or records
            chosen[name] = min((record.metrics[name] for record in records), key=lambda m: (-m.n, m.value))
        return chosen

    @property
    def flags(self) -> list[Flag]:
        """Reasons to doubt a measured number; they take away the rank."""
        return unique(flag for record in self.evaluations for flag in record.flags)

    @property
    def notes(self) -> list[Flag]:
        """What training went through. The measured number stands, so these leave the rank."""
        return unique(self.card.training.flags) if self.card else []


class Row:
    """One configuration: runs that differ by nothing but their seed."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = sorted(runs, key=lambda run: (run.training.seed if run.training else 0, run.model.sha256))
        self.rank: int | None = None

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

    @cached_property
    def _summaries(self) -> dict[str, Summary | None]:
        return {}

    def summary(self, name: str) -> Summary | None:
        """Metric `name` over the runs that have it; the worst case over those attacked by AutoAttack, if any."""
        if name not in self._summaries:
            self._summaries[name] = self._summarise(name)
        return self._summaries[name]

    def _summarise(self, name: str) -> Summary | None:
        runs = [run for run in self.runs if name in run.metrics]
        if name == WORST_CASE:
            runs = [run for run in runs if AUTOATTACK in run.metrics] or runs
        return Summary.of([run.metrics[name] for run in runs]) if runs else None

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


class Board:
    """All rows of one dataset under one threat, in their order, ranked."""

    def __init__(self, dataset: str, threat: Threat, rows: Iterable[Row]) -> None:
        self.dataset = dataset
        self.threat = threat
        self.rows = sorted(rows, key=lambda row: row.order)
        self._rank()

    def _rank(self) -> None:
        """Number the ranked section; rows of equal worst case share a rank."""
        last: tuple[float, int] | None = None
        for place, row in enumerate(self.section(Section.RANKED), start=1):
            summary = row.summary(WORST_CASE)
            value = summary.mean if summary else 0.0
            row.rank = last[1] if last and last[0] == value else place
            last = (value, row.rank)

    def section(self, section: Section) -> list[Row]:
        """The rows of one section."""
        return [row for row in self.rows if row.section is section]

    @property
    def best(self) -> Row | None:
        """The first ranked row."""
        return next(iter(self.section(Section.RANKED)), None)

    @property
    def runs(self) -> list[Run]:
        """The runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def n_models(self) -> int:
        """Number of distinct sets of weights."""
        return len({run.model.sha256 for run in self.runs})

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """The evaluations behind all rows."""
        return [record for run in self.runs for record in run.evaluations]


def boards_of(records: Iterable[EvaluationRecord], cards: Iterable[ModelCard]) -> list[Board]:
    """Boards in the order of dataset, norm and eps. A pure function of its arguments, whatever their order."""
    by_run = {(card.training.id, card.checkpoint): card for card in sorted(cards, key=lambda card: card.id)}
    boards = _grouped(records, lambda record: (record.dataset.name, record.threat.norm, record.threat.eps_text))
    built = []
    for (dataset, _, _), members in boards.items():
        rows: dict[str, list[Run]] = defaultdict(list)
        for evaluations in _grouped(members, _weights_key).values():
            training = evaluations[0].training
            card = by_run.get((training.run_id, training.checkpoint)) if training else None
            rows[_configuration(evaluations[0])].append(Run(evaluations, card))
        built.append(Board(dataset, members[0].threat, (Row(runs) for runs in rows.values())))
    return sorted(built, key=lambda b: (b.dataset, b.threat.norm, b.threat.eps, b.threat.eps_text))


def _weights_key(record: EvaluationRecord) -> tuple[str, ...]:
    training = record.training
    made = (training.run_id, training.checkpoint) if training else ()
    return (record.dataset.split, record.dataset.sha256, record.model.sha256, *made)


def _configuration(record: EvaluationRecord) -> str:
    """Digest of all that runs of one row have in common: everything that shapes the weights, but the seed."""
    model, training = record.model, record.training
    images = [record.dataset.split, record.dataset.sha256]
    if training is None:
        return digest_of([*images, model.sha256])
    made = training.model_dump(include={"method", "recipe", "optimizer", "epochs", "checkpoint", "n_train", "n_val"})
    config = {key: value for key, value in training.config.items() if key not in ("seed", "evaluation")}
    return digest_of([*images, model.arch, model.params, made, training.bn_mode, config])


def _grouped(
    records: Iterable[EvaluationRecord], key: Callable[[EvaluationRecord], tuple[str, ...]]
) -> dict[tuple[str, ...], list[EvaluationRecord]]:
    groups: dict[tuple[str, ...], list[EvaluationRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.id):
        groups[key(record)].append(record)
    return groups


def unique(flags: Iterable[Flag]) -> list[Flag]:
    """Flags without repetition, sorted."""
    return sorted(set(flags), key=lambda flag: (flag.code, flag.message))
