"""The quantities of a training that are drawn over its epochs, and their numbers: mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from deatbench.errors import UnknownNameError
from deatbench.records import EpochMetrics
from deatbench.report.histories import Curve


@dataclass(frozen=True)
class Panel:
    """A quantity over the epochs: a field of EpochMetrics, and one for training images to compare it with."""

    title: str
    field: str
    training: str | None = None

    @property
    def share(self) -> bool:
        """Whether it is drawn in percent."""
        return self.field.endswith("_acc")

    @property
    def fields(self) -> tuple[str, ...]:
        """What is drawn in it, training images first."""
        return (self.field,) if self.training is None else (self.training, self.field)


PANELS = {
    "robust": Panel("Robust accuracy (%)", "val_robust_acc", "subset_robust_acc"),
    "clean": Panel("Clean accuracy (%)", "val_clean_acc", "subset_clean_acc"),
    "loss": Panel("Training loss", "loss"),
    "lr": Panel("Learning rate", "lr"),
    "fgsm": Panel("FGSM accuracy (%)", "val_fgsm_acc"),
}
DEFAULT_PANELS = ("robust", "clean", "loss", "lr")


@dataclass(frozen=True)
class Series:
    """A field of one curve: mean and standard deviation over its runs, at the epochs that all of them have."""

    epochs: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]


def choose_panels(names: Sequence[str]) -> list[Panel]:
    """Panels by name, or any other number of metrics.jsonl by its own. Raises UnknownNameError."""
    fields = [name for name in EpochMetrics.model_fields if name != "epoch" and name not in PANELS]
    for name in names:
        if name not in PANELS and name not in fields:
            raise UnknownNameError("metric", name, [*PANELS, *fields], f"there are {', '.join([*PANELS, *fields])}")
    return [PANELS.get(name) or Panel(f"{name} (%)" if name.endswith("_acc") else name, name) for name in names]


def series_of(curve: Curve, field: str, scale: float = 1.0) -> Series:
    """`field` of a curve, times `scale`; empty where no epoch has it in every run."""
    runs = [
        {each.epoch: scale * getattr(each, field) for each in run.epochs if getattr(each, field) is not None}
        for run in curve.runs
    ]
    epochs = tuple(epoch for epoch in sorted(runs[0]) if all(epoch in run for run in runs))
    columns = [[run[epoch] for run in runs] for epoch in epochs]
    spreads = (statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns)
    return Series(epochs, tuple(statistics.fmean(column) for column in columns), tuple(spreads))
