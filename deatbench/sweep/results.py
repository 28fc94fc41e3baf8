"""From the folder of a finished run to the one line that a sweep keeps of it, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from deatbench.errors import ConfigError, DeatbenchError
from deatbench.records import (
    EpochMetrics,
    EpochSeries,
    EvaluationRecord,
    MeasuredWeights,
    Record,
    SweepPoint,
    SweepResult,
    TrainingRecord,
)
from deatbench.store import RunFolder, read_record, read_text
from deatbench.sweep.points import Planned

R = TypeVar("R", bound=Record)
MAX_LINE_BYTES = 4 * 2**20


def files_of(folder: RunFolder, evaluation: str, checkpoints: Iterable[str]) -> list[Path]:
    """The files that a result is made from if these weights were kept and measured by this plan."""
    return [folder.training, *(folder.evaluations / f"{name}-{evaluation}.json" for name in checkpoints)]


def is_finished(folder: RunFolder, point: Planned) -> bool:
    """Whether `result_of` would find a result, as far as can be seen from which files there are."""
    try:
        weights = json.loads(read_text(folder.training))["weights"]
        return all(path.is_file() for path in files_of(folder, point.evaluation, weights))
    except (DeatbenchError, OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def result_of(folder: RunFolder, points: Sequence[Planned]) -> SweepResult | None:
    """What came out of the run that `points` stand for; None until it is finished. Raises what `read_record` does."""
    if not folder.finished:
        return None
    training = _training(folder)
    paths = files_of(folder, points[0].evaluation, training.weights)[1:]
    if not all(path.is_file() for path in paths):
        return None
    evaluations = dict(zip(training.weights, (read_record(path, EvaluationRecord) for path in paths), strict=True))
    first = evaluations[training.chosen]
    found = {
        "run_id": training.id,
        "digest": training.digest,
        "points": tuple(SweepPoint(label=point.label, settings=point.settings) for point in points),
        "evaluation": points[0].evaluation,
        "config": {key: value for key, value in training.config.items() if key != "evaluation"},
        "n_params": training.n_params,
        "dataset": first.dataset,
        "threat": first.threat,
        "best_epoch": training.best_epoch,
        "chosen": training.chosen,
        "weights": {name: _measured(evaluations[name]) for name in training.weights},
        "epochs": _series(folder.metrics),
        "flags": training.flags,
        "seconds": training.seconds,
        "hardware": training.hardware,
        "threads": training.env.threads,
        "torch": training.env.torch,
    }
    return _valid(SweepResult, found, folder.path)


def _training(folder: RunFolder) -> TrainingRecord:
    training = read_record(folder.training, TrainingRecord)
    if training.id != folder.path.name:
        raise ConfigError(f"{folder.training}: id: it is of the run {training.id}")
    if training.chosen not in training.weights:
        raise ConfigError(f"{folder.training}: chosen: there are no {training.chosen} weights")
    return training


def _measured(record: EvaluationRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in MeasuredWeights.model_fields}


def _series(metrics: Path) -> EpochSeries:
    try:
        epochs = [EpochMetrics.model_validate_json(line) for line in read_text(metrics).splitlines()]
    except ValidationError as error:
        raise ConfigError(f"{metrics}: {error.errors()[0]['msg']}") from error
    names = EpochSeries.model_fields
    return _valid(EpochSeries, {name: [_short(getattr(each, name)) for each in epochs] for name in names}, metrics)


def _valid(kind: type[R], found: dict[str, Any], where: Path) -> R:
    """A record of what was found. Raises ConfigError naming where, and the first fault."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise ConfigError(f"{where}: {place}: {first['msg']}") from error


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def to_line(result: SweepResult) -> str:
    """The result as one line of JSON. Raises ConfigError on one that `read_lines` would refuse."""
    line = dump_line(result.model_dump(mode="json"))
    if len(line.encode()) >= MAX_LINE_BYTES:
        raise ConfigError(f"run {result.run_id}: its result is larger than {MAX_LINE_BYTES >> 20} MiB")
    return line


def seconds_of(line: str) -> float | None:
    """What a run took: its training and its attacks, a set of weights under two names once. None if it does not say."""
    try:
        result = json.loads(line)
        attacked = {json.dumps(measured): float(measured["seconds"]) for measured in result["weights"].values()}
        seconds = float(result["seconds"]) + sum(attacked.values())
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return seconds if 0 <= seconds < math.inf else None


def dump_line(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file; none where it is not there. Raises ConfigError on one that is too long."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
            yield line.decode("utf-8", errors="replace").rstrip("\n")
