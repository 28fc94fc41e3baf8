"""One set of weights with every evaluation of it under one threat."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import cached_property

import numpy as np

from deatbench.records import (
    EvaluationRecord,
    Flag,
    Metric,
    ModelCard,
    ModelInfo,
    Outcome,
    Reproduction,
    TrainingInfo,
    Verification,
)
from deatbench.report.inputs import Inputs

CLEAN = "clean_acc"
WORST_CASE = "worst_case_acc"
AUTOATTACK = "autoattack"
PROVISIONAL = "autoattack-provisional"


class Tier(IntEnum):
    """Who looked at a number besides those who published it; higher is better."""

    SELF_REPORTED = 0
    RERUN = 1
    PROVEN = 2

    @property
    def words(self) -> str:
        """The tier as pages say it."""
        return ("self-reported", "re-run", "proof verified")[self]


class Run:
    """One set of weights with every evaluation of it under the board's threat, oldest first.

    `card` is the zoo's of the training that made the weights, whichever of its weights the zoo keeps.
    """

    def __init__(
        self,
        evaluations: Iterable[EvaluationRecord],
        card: ModelCard | None,
        verifications: Iterable[Verification] = (),
        reproductions: Iterable[Reproduction] = (),
    ) -> None:
        self.evaluations = sorted(evaluations, key=lambda record: (record.created, record.id))
        self.card = card
        self.verifications = {look.record: look for look in verifications}
        self.reproductions = {look.record: look for look in reproductions}

    @classmethod
    def of(cls, evaluations: list[EvaluationRecord], card: ModelCard | None, inputs: Inputs) -> Run:
        """The run with all that was found on looking at its records again."""
        ids = [record.id for record in evaluations]
        return cls(
            evaluations,
            card,
            (inputs.verifications[key] for key in ids if key in inputs.verifications),
            (inputs.reproductions[key] for key in ids if key in inputs.reproductions),
        )

    @property
    def model(self) -> ModelInfo:
        """The network, as its latest evaluation names it."""
        return self.evaluations[-1].model

    @property
    def training(self) -> TrainingInfo | None:
        """How the weights came to be; None for a foreign model."""
        return self.evaluations[-1].training

    @property
    def page(self) -> str | None:
        """Address of its model's page relative to the board's; None if the zoo does not have it."""
        return f"{self.card.threat.slug}/{self.card.id}.html" if self.card else None

    @cached_property
    def sources(self) -> dict[str, EvaluationRecord]:
        """For each metric the evaluation it is taken from: of those with the most images that with the lowest value.

        The lowest, so that repeating an evaluation cannot raise a number; of equal ones the proven, else that with
        stored images. The worst case comes from evaluations with AutoAttack where there are any: without it, it is only
        an upper bound.
        """
        chosen: dict[str, EvaluationRecord] = {}
        for name in {name for record in self.evaluations for name in record.metrics}:
            records = [record for record in self.evaluations if name in record.metrics]
            if name == WORST_CASE:
                records = [record for record in records if AUTOATTACK in record.metrics] or records
            chosen[name] = min(
                records,
                key=lambda r: (-r.metrics[name].n, r.metrics[name].value, not self._proven(r), not r.adversarials),
            )
        return chosen

    def _proven(self, record: EvaluationRecord) -> bool:
        """Whether its broken verdicts were checked; without stored images nobody can have."""
        verification = self.verifications.get(record.id)
        return verification is not None and verification.proven and record.adversarials is not None

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Each metric from its source."""
        return {name: record.metrics[name] for name, record in self.sources.items()}

    @property
    def deciding(self) -> EvaluationRecord:
        """The evaluation that gives the run its place: the source of its worst case."""
        return self.sources.get(WORST_CASE, self.evaluations[-1])

    @cached_property
    def surviving(self) -> np.ndarray:
        """Which images the deciding evaluation leaves standing after everything, as packed bits, uint8 [ceil(n/8)]."""
        return np.packbits(self.deciding.samples.worst_case_N())

    @property
    def images(self) -> str:
        """Key of the deciding evaluation's images: with equal keys, the first m of n are the same images."""
        record = self.deciding
        first = record.samples.indices == "first"
        chosen = "first" if first else ",".join(str(index) for index in record.samples.indices)
        return f"{record.dataset.split} {record.dataset.sha256} {chosen}"

    @property
    def tier(self) -> Tier:
        """Who else looked at the deciding evaluation."""
        if self._proven(self.deciding):
            return Tier.PROVEN
        reproduction = self.reproductions.get(self.deciding.id)
        repeated = reproduction is not None and reproduction.outcome is not Outcome.MISMATCH
        return Tier.RERUN if repeated else Tier.SELF_REPORTED

    @cached_property
    def flags(self) -> list[Flag]:
        """Reasons to doubt a measured number; they take away the rank.

        What doubts an attack alone counts in the deciding evaluation only: a weaker one beside it takes nothing away.
        """
        doubted = [(flag, record is self.deciding) for record in self.evaluations for flag in record.flags]
        found = [flag for flag, decides in doubted if decides or flag.code not in OF_AN_ATTACK]
        for key, verification in self.verifications.items():
            failed = ", ".join(check.name for check in verification.checks if check.status == "FAIL")
            if failed:
                found.append(Flag(code="verification_failed", message=f"{key} does not hold on re-checking: {failed}."))
        for key, repeated in self.reproductions.items():
            if repeated.outcome is Outcome.MISMATCH:
                found.append(Flag(code="not_reproduced", message=f"{key}: its recipe, run again, gave another result."))
        return unique(found)

    @property
    def notes(self) -> list[Flag]:
        """What training went through. The measured number stands, so these leave the rank."""
        return unique(self.card.training.flags) if self.card else []


OF_AN_ATTACK = frozenset({"not_converged", "not_monotone", "silent_success"})  # not of the network


def unique(flags: Iterable[Flag]) -> list[Flag]:
    """Flags without repetition, sorted."""
    return sorted(set(flags), key=lambda flag: (flag.code, flag.message))
