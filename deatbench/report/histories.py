"""Training runs as they went: metrics.jsonl read back, runs that differ only in seed put together, and named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deatbench.errors import ConfigError, MissingError
from deatbench.records import EpochMetrics
from deatbench.report.escape import plain
from deatbench.store import RunFolder, parse_json, read_text

NAMING = ("method.name", "arch.name", "optimizer.name", "dataset", "threat.norm", "threat.eps", "epochs")
COMMON = ("dataset", "arch.name", "method.name", "threat.norm", "threat.eps")
NO_PART_OF_TRAINING = {"seed", "evaluation"}


@dataclass(frozen=True)
class History:
    """One run: what to call it, its configuration as plain data, its epochs so far.

    `best_epoch` is the one whose weights were kept as best; None while training goes on.
    """

    name: str
    config: Mapping[str, Any]
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the training, the seed aside, by dotted key: `optimizer.lr`."""
        return dict(_flat({key: value for key, value in self.config.items() if key not in NO_PART_OF_TRAINING}))


@dataclass(frozen=True)
class Curve:
    """What is drawn in one colour: a run, or runs that differ in nothing but their seed."""

    label: str
    runs: tuple[History, ...]

    def common_epochs(self) -> int:
        """How far every one of its runs has come."""
        return min(run.epochs[-1].epoch for run in self.runs)


def read_metrics(folder: RunFolder) -> tuple[EpochMetrics, ...]:
    """The epochs of a run. Raises MissingError before the first has ended, ConfigError naming a broken line."""
    epochs = read_epochs(folder.metrics) if folder.metrics.exists() else ()
    if not epochs:
        raise MissingError(f"{folder.path} has no metrics yet", "they come with the end of its first epoch")
    return epochs


def read_epochs(path: Path) -> tuple[EpochMetrics, ...]:
    """The lines of a metrics.jsonl. Raises MissingError if it cannot be read, ConfigError naming a broken line."""
    epochs: list[EpochMetrics] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        epochs.append(_epoch(line, f"{path} line {number}", after=epochs[-1].epoch if epochs else 0))
    return tuple(epochs)


def _epoch(line: str, where: str, after: int) -> EpochMetrics:
    parse_json(line, where)
    try:
        metrics = EpochMetrics.model_validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "an epoch's metrics"
        raise ConfigError(f"{where}: {place}: {first['msg']}") from error
    if metrics.epoch <= after:
        raise ConfigError(f"{where}: epoch {metrics.epoch} does not come after {after}")
    return metrics


def curves_of(histories: Sequence[History]) -> list[Curve]:
    """Runs as curves, in the order in which they were named. Labels say what tells the curves apart, and no more."""
    groups: dict[tuple[str, int], list[History]] = {}
    for history in histories:
        same = json.dumps(history.settings, sort_keys=True, default=str)
        turn = 0  # a second run of the same seed is no other seed: it gets a curve of its own
        while any(run.config.get("seed") == history.config.get("seed") for run in groups.get((same, turn), ())):
            turn += 1
        groups.setdefault((same, turn), []).append(history)
    members = list(groups.values())
    return [Curve(label, tuple(runs)) for label, runs in zip(_labels(members), members, strict=True)]


def common_title(histories: Sequence[History]) -> str:
    """Data set, architecture, method and threat, as far as all runs share them: `digits · vgg16 · Linf 0.2`."""
    settings = [history.settings for history in histories]
    shared = {key: settings[0].get(key) for key in COMMON if len({repr(each.get(key)) for each in settings}) == 1}
    norm, eps = shared.pop("threat.norm", None), shared.pop("threat.eps", None)
    parts = [*shared.values(), *([f"{norm} {eps}"] if norm and eps else [])]
    return " · ".join(plain(str(part), 40) for part in parts if part is not None)


def unlabelled(curves: Sequence[Curve]) -> list[str]:
    """Keys that all curves have a value for and differ in, besides those that their labels are made of."""
    settings = [curve.runs[0].settings for curve in curves]
    shown = _telling_keys(settings)
    return [key for key in _differing(settings) if key not in shown and all(key in each for each in settings)]


def _labels(groups: Sequence[Sequence[History]]) -> list[str]:
    settings = [runs[0].settings for runs in groups]
    keys = _telling_keys(settings)
    labels = [", ".join(_words(key, each[key]) for key in keys if key in each) for each in settings]
    for index, runs in enumerate(groups):
        if not labels[index] or labels.count(labels[index]) > 1:
            labels[index] = ", ".join(filter(None, (labels[index], plain(runs[0].name, 60))))
    return [
        label + (f" ({len(runs)} seeds)" if len(runs) > 1 else "") for label, runs in zip(labels, groups, strict=True)
    ]


def _telling_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fewest keys, best known first, that tell the settings apart: each splits what those before it leave equal."""
    keys: list[str] = []
    parts = 1
    for key in _differing(settings):
        split = len({tuple(repr(each.get(known)) for known in (*keys, key)) for each in settings})
        if split > parts:
            keys, parts = [*keys, key], split
    return keys


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    order = dict.fromkeys((*NAMING, *(key for each in settings for key in each if key != "recipe"), "recipe"))
    return [key for key in order if len({repr(each.get(key)) for each in settings}) > 1]


def _words(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if key == "threat.eps":
        return plain(f"ε = {text}", 40)
    if key.endswith(".name") or key in ("dataset", "threat.norm"):
        return plain(text, 40)
    return plain(f"{key.removeprefix('method.').removeprefix('arch.')} = {text}", 40)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, part in value.items():
        if isinstance(part, Mapping):
            yield from _flat(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part
