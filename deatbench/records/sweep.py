"""A run of a sweep, compact: what was asked, what came out image by image, how its epochs went."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from deatbench.records.base import Checkpoint, Flag, Identifier, Record
from deatbench.records.evaluation import DatasetInfo, Generalisation
from deatbench.records.threat import Threat
from deatbench.records.verdicts import Metric, Samples, metrics_of


class SweepPoint(Record):
    """Where in its sweep a run lies: `settings` by axis; a variant of an axis is there by name."""

    label: str
    settings: dict[str, Any]


class MeasuredWeights(Record):
    """One kept set of weights of a run, attacked. `samples` are the verdicts that `metrics` follow from.

    `flags` are those of the evaluation; `seconds` is what it took.
    """

    metrics: dict[str, Metric]
    samples: Samples
    flags: tuple[Flag, ...] = ()
    generalisation: Generalisation | None = None
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _metrics_follow_from_bits(self) -> MeasuredWeights:
        if self.metrics != metrics_of(self.clean_N(), {name: self.robust_N(name) for name in self.samples.robust}):
            raise ValueError("metrics do not follow from the verdict bits")
        return self

    def clean_N(self) -> np.ndarray:
        """True where the clean image is classified correctly."""
        return self.samples.clean_N()

    def robust_N(self, attack: str) -> np.ndarray:
        """True where the image withstands `attack`."""
        return self.samples.robust_N(attack)

    def worst_case_N(self) -> np.ndarray:
        """True where the image is classified correctly and withstands every attack."""
        return self.samples.worst_case_N()


class EpochSeries(Record):
    """What was measured after each epoch, five significant digits; the fields are those of EpochMetrics."""

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    train_clean_acc: tuple[float | None, ...]
    train_robust_acc: tuple[float | None, ...]
    subset_clean_acc: tuple[float, ...]
    subset_robust_acc: tuple[float, ...]
    val_clean_acc: tuple[float | None, ...]
    val_robust_acc: tuple[float | None, ...]

    @model_validator(mode="after")
    def _as_many_of_each(self) -> EpochSeries:
        if len({len(series) for series in self.__dict__.values()}) > 1:
            raise ValueError("the series differ in length")
        return self


class SweepResult(Record):
    """A finished run of a sweep: a line of its results.jsonl.

    `points` are all the points of the sweep that this run stands for, seldom more than one. `flags` and `seconds` are
    the training's. `config` is the training's too; `evaluation` is the digest of the plan that measured it.
    """

    schema_version: Literal[1] = 1
    run_id: Identifier
    digest: str
    points: tuple[SweepPoint, ...] = Field(min_length=1)
    evaluation: str
    config: dict[str, Any]
    n_params: int
    dataset: DatasetInfo
    threat: Threat
    best_epoch: int
    chosen: Checkpoint
    weights: dict[Checkpoint, MeasuredWeights] = Field(min_length=1)
    epochs: EpochSeries
    flags: tuple[Flag, ...] = ()
    seconds: float = Field(ge=0)
    hardware: str
    threads: int
    torch: str

    @property
    def settings(self) -> dict[str, Any]:
        """Those of its first point."""
        return self.points[0].settings

    @property
    def label(self) -> str:
        """That of its first point."""
        return self.points[0].label
