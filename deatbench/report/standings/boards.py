"""What stands on a board: one board per dataset and threat, one row per configuration, one run per set of weights."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from deatbench.errors import ConfigError
from deatbench.records import EvaluationRecord, PublishedResult, Threat, digest_of
from deatbench.report.inputs import Inputs
from deatbench.report.standings.rows import Row, Section
from deatbench.report.standings.runs import WORST_CASE, Run
from deatbench.report.standings.significance import Standing, tie_bands

T = TypeVar("T", EvaluationRecord, PublishedResult)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}")


class Board:
    """All rows of one dataset under one threat, in their order, ranked; and what others published about it."""

    def __init__(
        self, dataset: str, threat: Threat, rows: Iterable[Row], published: Sequence[PublishedResult] = ()
    ) -> None:
        self.dataset = dataset
        self.threat = threat
        self.rows = sorted(rows, key=lambda row: row.order)
        self.published = sorted(published, key=lambda result: (-_published_accuracy(result), result.name, result.id))
        self._rank()

    def _rank(self) -> None:
        """Number the ranked section, rows of equal worst case alike, and say which places are not ruled out."""
        ranked = self.section(Section.RANKED)
        last: tuple[float, int] | None = None
        for place, row in enumerate(ranked, start=1):
            value = _standing(row).score
            row.rank = last[1] if last and last[0] == value else place
            last = (value, row.rank)
        for row, band in zip(ranked, tie_bands([_standing(row) for row in ranked]), strict=True):
            row.band = band

    @property
    def address(self) -> str:
        """Path of its page below leaderboards/, without suffix. Raises ConfigError unless it is a plain one."""
        for part in (self.dataset, self.threat.slug):
            if not _FILE_NAME.fullmatch(part):
                first = (self.evaluations or self.published)[0].id
                raise ConfigError(f"record {first}: {part!r} cannot name a page", "use letters, digits and . _ + = -")
        return f"{self.dataset}/{self.threat.slug}"

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
        return len({run.model.function for run in self.runs})

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """The evaluations behind all rows."""
        return [record for run in self.runs for record in run.evaluations]


def boards_of(inputs: Inputs) -> list[Board]:
    """Boards in the order of dataset, norm and eps. A pure function of what `inputs` holds, whatever its order.

    Built-in reference results join boards that are there; results that were imported make a board of their own.
    """
    cards = {card.training.id: card for card in sorted(inputs.cards, key=lambda card: card.id)}
    measured = _grouped(inputs.evaluations, lambda record: _board_key(record.dataset.name, record.threat))
    imported = _grouped(inputs.published, lambda result: _board_key(result.dataset, result.threat))
    references = _grouped(inputs.references, lambda result: _board_key(result.dataset, result.threat))
    built = []
    for key in sorted(measured.keys() | imported.keys()):
        rows: dict[str, list[Run]] = defaultdict(list)
        for evaluations in _grouped(measured.get(key, []), _weights_key).values():
            training = evaluations[0].training
            card = cards.get(training.run_id) if training else None
            rows[_configuration(evaluations[0])].append(Run.of(evaluations, card, inputs))
        published = [*imported.get(key, []), *references.get(key, [])]
        threat = (measured.get(key) or published)[0].threat
        built.append(Board(key[0], threat, (Row(runs) for runs in rows.values()), published))
    return sorted(built, key=lambda b: (b.dataset, b.threat.norm, b.threat.eps, b.threat.eps_text))


def _board_key(dataset: str, threat: Threat) -> tuple[str, ...]:
    return dataset, threat.norm, threat.eps_text


def _published_accuracy(result: PublishedResult) -> float:
    """What a published result is ordered by: the lowest known, else AutoAttack's, else that under PGD."""
    known = (result.best_known_acc, result.autoattack_acc, result.pgd_acc)
    return next((value for value in known if value is not None), -1.0)


def _standing(row: Row) -> Standing:
    summary = row.summary(WORST_CASE)
    if summary is None:
        return Standing(score=0.0, interval=(0.0, 1.0), verdicts=None, n=0, images="")
    return Standing(
        score=summary.mean, interval=summary.ci95, verdicts=row.verdicts, n=summary.n, images=row.images or ""
    )


def _weights_key(record: EvaluationRecord) -> tuple[str, ...]:
    training = record.training
    made = (training.run_id, training.checkpoint) if training else ()
    return (record.dataset.split, record.dataset.sha256, *record.model.function, *made)


def _configuration(record: EvaluationRecord) -> str:
    """Digest of all that runs of one row have in common: everything that shapes the weights, but the seed."""
    model, training = record.model, record.training
    images = [record.dataset.split, record.dataset.sha256]
    if training is None:
        return digest_of([*images, *model.function])
    made = training.model_dump(include={"method", "recipe", "optimizer", "epochs", "checkpoint", "n_train", "n_val"})
    config = {key: value for key, value in training.config.items() if key not in ("seed", "evaluation")}
    return digest_of([*images, model.arch, model.params, made, training.bn_mode, config])


def _grouped(records: Iterable[T], key: Callable[[T], tuple[str, ...]]) -> dict[tuple[str, ...], list[T]]:
    groups: dict[tuple[str, ...], list[T]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.id):
        groups[key(record)].append(record)
    return groups
